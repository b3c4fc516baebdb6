"""The shipped icons: what is in the file, that splits are clean, the notice complete, and that it can be rebuilt."""

import io
import json
import os
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nml_ray.config.errors import UserError
from nml_ray.data.icons import choose, families, likeness, render, source, vocabulary
from nml_ray.storage.digest import digest_of_file

COUNTS = {"pretrain": 14600, "train": 2408, "validation": 839, "test": 1592, "ood": 611}
DOWNSTREAM = ("train", "validation", "test")


@pytest.fixture(scope="module")
def rows():
    return source.load().to_pylist()


@pytest.fixture(scope="module")
def pixels(rows):
    decoded = []
    for row in rows:
        with Image.open(io.BytesIO(row["png"])) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (32, 32)), row["key"]
            decoded.append(np.asarray(image))
    return np.stack(decoded)


def test_the_file_is_the_pinned_one():
    assert digest_of_file(source.path()) == source.DIGEST


def test_counts_and_columns(rows):
    table = source.load()
    assert table.column_names == ["key", "png", "class", "caption", "family", "domain", "split"]
    assert {name: source.split(table, name).num_rows for name in source.SPLITS} == COUNTS
    assert sum(COUNTS.values()) == len(rows)
    assert [(row["split"], row["key"]) for row in rows] == sorted((row["split"], row["key"]) for row in rows)


def test_a_misspelt_split_is_named():
    with pytest.raises(UserError, match="did you mean 'pretrain'"):
        source.classes("pre_train")


def test_keys_are_names_of_tar_members(rows):
    keys = [row["key"] for row in rows]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+", key) for key in keys)
    assert all(row["key"].split("/")[0] == row["family"] for row in rows)


def test_classes_of_pretraining_and_downstream_are_disjoint(rows):
    pretrain = source.classes("pretrain")
    assert len(pretrain) == 120 and pretrain == sorted(pretrain)
    for name in ("train", "validation", "test", "ood"):
        assert source.classes(name) == source.classes("train")
        assert {row["class"] for row in rows if row["split"] == name} == set(source.classes(name))
    assert len(source.classes("train")) == 40
    assert not set(pretrain) & set(source.classes("train"))


def test_the_downstream_classes_are_the_drawn_ones():
    every = sorted(source.classes("pretrain") + source.classes("train"))
    assert choose.downstream_classes(every) == source.classes("test")


def test_at_most_two_icons_of_a_class_and_family(rows):
    assert max(Counter((row["class"], row["family"]) for row in rows).values()) == choose.PER_CLASS_AND_FAMILY


def test_class_caption_and_style_follow_from_the_name(rows):
    for row in rows:
        name = row["key"].split("/")[1]
        assert not vocabulary.has_brand(name), row["key"]
        assert row["caption"] == vocabulary.caption(name)
        assert vocabulary.content_words(name)[0] in (row["class"], row["class"] + "s"), row["key"]


def test_only_the_out_of_domain_split_holds_colour_and_emoji(rows):
    for row in rows:
        assert (row["split"] == "ood") == (row["domain"] in choose.OUT_OF_DOMAIN), row["key"]


def test_no_group_of_related_families_crosses_a_split(rows):
    groups = source.groups()
    splits = defaultdict(set)
    for row in rows:
        if row["split"] in DOWNSTREAM:
            splits[groups[row["family"]]].add(row["split"])
    assert {len(found) for found in splits.values()} == {1}
    assert groups["feather"] == groups["lucide"]
    assert groups["mdi"] == groups["ic"] == groups["material-symbols"]
    assert groups["fa-solid"] == groups["fa7-solid"] == groups["la"]


def test_no_families_that_share_drawings_stand_on_two_sides(rows, pixels):
    """Independent of the recorded groups: near-duplicates are looked for in the images themselves."""
    places = [place for place, row in enumerate(rows) if row["split"] in DOWNSTREAM]
    vectors = np.stack([likeness.normalised(pixels[place]) for place in places])
    side = {rows[place]["family"]: rows[place]["split"] for place in places}
    alike = likeness.alike_families(
        vectors, [rows[place]["class"] for place in places], [rows[place]["family"] for place in places]
    )
    assert alike
    assert [(a, b, share) for a, b, share in alike if side[a] != side[b]] == []


def test_no_related_family_has_an_out_of_domain_drawing_in_train(rows, pixels):
    groups, train, ood = source.groups(), defaultdict(list), []
    for row, image in zip(rows, pixels, strict=True):
        if row["split"] == "train":
            train[row["class"], groups[row["family"]]].append(likeness.normalised(image))
        elif row["split"] == "ood":
            ood.append((row, likeness.normalised(image)))
    for row, vector in ood:
        twins = train[row["class"], groups[row["family"]]]
        assert all(float(twin @ vector) < likeness.ALIKE + 1e-5 for twin in twins), row["key"]


def test_no_image_occurs_twice_and_none_is_blank(pixels):
    assert len({image.tobytes() for image in pixels}) == len(pixels)
    assert not any(render.is_blank(image) for image in pixels)


def test_the_notice_covers_every_family(rows):
    notice = source.notice()
    entries = dict(re.findall(r"^### [^\n]* \(`([a-z0-9-]+)`\)\n(.*?)(?=^##)", notice, flags=re.MULTILINE | re.DOTALL))
    assert set(entries) == {row["family"] for row in rows} == set(source.groups())
    licences = set()
    for entry in entries.values():
        fields = dict(re.findall(r"^- ([^:\n]+): (.+)$", entry, flags=re.MULTILINE))
        assert {"Author", "Source", "Version", "SPDX-License-Identifier", "Changes"} <= set(fields)
        assert "- Copyright (c) " in entry and fields["Changes"] == "rasterised to 32 px grey"
        licences.add(fields["SPDX-License-Identifier"].split(" ")[0])
    assert licences == set(source.LICENCES) == set(families.PERMITTED)
    for spdx in licences:
        assert notice.count(f"\n### {spdx}\n") == 1
    assert notice.count("Permission is hereby granted, free of charge") == 1


def test_no_excluded_family(rows):
    used = {row["family"] for row in rows}
    assert not used & families.EXCLUDED
    assert not [name for name in used if re.search("brand|logo|crypto|emojione|flags", name)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("arrow-up-circle", []),
        ("heart-24-filled", ["heart"]),
        ("outline-no-parking-2", ["parking"]),
        ("credit-card-12px", ["credit", "card"]),
        ("x-4k-tv", ["tv"]),
    ],
)
def test_stop_words_and_numbers_are_dropped(name, expected):
    assert vocabulary.content_words(name) == expected


def test_plurals_fold_only_where_the_singular_is_known():
    known = frozenset({"user", "users", "bar", "bars", "glass", "new"})
    assert [vocabulary.singular(word, known) for word in ("users", "bars", "glass", "news", "cats")] == [
        "user", "bars", "glass", "news", "cats",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "family", "expected"),
    [
        ("bell-bold-duotone", "solar", "duotone"),
        ("line-chart", "tabler", "plain"),
        ("outline-home", "ic", "outline"),
        ("house", "fa7-solid", "fill"),
        ("bell-fill", "uit Unicons Thin Line", "fill"),
    ],
)
def test_style_by_words(name, family, expected):
    assert vocabulary.style(name, family) == expected


def test_groups_are_connected_components():
    assert families.groups("abcde", [("d", "b"), ("b", "e")]) == {"a": "a", "b": "b", "c": "c", "d": "b", "e": "b"}


def test_groups_fill_the_splits_in_the_order_of_their_hash():
    sizes = {f"group {number}": 10 for number in range(40)}
    splits = choose.split_of_groups(sizes)
    assert Counter(splits.values()) == {"train": 20, "validation": 7, "test": 13}
    assert choose.split_of_groups(dict(reversed(sizes.items()))) == splits


def test_a_moved_and_scaled_drawing_is_found_alike():
    first, second = np.full((2, 32, 32), 255, np.uint8)
    first[4:20, 4:20][np.tri(16, dtype=bool)] = 0
    second[8:32, 2:26][np.tri(24, dtype=bool)] = 0
    vectors = np.stack([likeness.normalised(first), likeness.normalised(second), likeness.normalised(first.T)])
    shared = likeness.shared_drawings(vectors, ["x"] * 3, ["a", "b", "c"])
    assert shared == {("a", "b"): 1}


def test_a_sample_can_be_rebuilt(rows):
    pytest.importorskip("resvg_py", reason="resvg_py is not installed (extra `icons`)")
    if "NML_ICONIFY" not in os.environ:
        pytest.skip("NML_ICONIFY does not name an unpacked @iconify/json")
    root = Path(os.environ["NML_ICONIFY"])
    sample = rows[::400]
    assert len(sample) > 40
    for row in sample:
        family = json.loads((root / "json" / f"{row['family']}.json").read_text(encoding="utf-8"))
        svg = render.svg_of(family["icons"][row["key"].split("/")[1]], family)
        assert render.png_of(render.rasterise(svg)) == row["png"], row["key"]
