"""Verifying: whatever is wrong is found and named; damaged images are named or counted, never a crash."""

import os
import random
import tarfile

import numpy as np
import pytest

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.dataset_info import read_info, save_info
from nml_ray.data.decode import UndecodableImage, open_image
from nml_ray.data.index import IndexOptions, index_path, index_tar, read_index, write_index
from nml_ray.data.indexing import index_directory, set_known_bad
from nml_ray.data.shards import Sample, write_shards, write_tar
from nml_ray.data.sheet import contact_sheet
from nml_ray.data.summary import summarise
from nml_ray.data.tar import regular_members
from nml_ray.data.verify import Verdict, verify
from tests.small_images import picture, sorted_tars

CLASSES = ("cat", "dog")
KINDS = ("jpg", "png", "webp")


def samples(count: int = 20) -> list[Sample]:
    return [Sample(f"k{i}", picture(i, KINDS[i % 3]), KINDS[i % 3], i % 2, f"caption {i}") for i in range(count)]


@pytest.fixture
def shards(tmp_path):
    write_shards(samples(), tmp_path, samples_per_shard=8, classes=CLASSES)
    return tmp_path


def found(verdict: Verdict) -> set[tuple[str, str]]:
    return {(problem.check, problem.where) for problem in verdict.problems}


def touch_index(tar) -> None:
    """The index looks as new as the tar."""
    os.utime(index_path(tar), ns=(tar.stat().st_mtime_ns,) * 2)


def test_a_sound_data_set(shards):
    seen: list = []
    verdict = verify(shards, progress=lambda *done: seen.append(done))
    assert verdict.sound and not (verdict.problems or verdict.undecodable)
    assert verdict.looked_at == {
        "tars": 3,
        "indices": 3,
        "content": 20,
        "labels": 20,
        "keys": 20,
        "digest": 1,
        "images": 20,
    }
    assert seen == [(0, 20), (8, 20), (16, 20), (20, 20)]
    assert verify(shards, decode=False).looked_at["images"] == 0


def flip(path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 16
    path.write_bytes(data)


def test_a_changed_byte_of_an_image_is_named(shards):
    tar = shards / "shard-000001.tar"
    row = read_index(index_path(tar)).to_pylist()[2]
    member = row["members"][row["image"]]
    flip(tar, member["offset"] + member["size"] // 2)
    touch_index(tar)
    verdict = verify(shards)
    assert found(verdict) == {("content", tar.name)}
    assert verdict.problems[0].what == f"images differ from the index: {row['key']}" and not verdict.sound


def test_a_changed_label_is_named(shards):
    tar = shards / "shard-000000.tar"
    row = read_index(index_path(tar)).to_pylist()[0]
    member = next(member for member in row["members"] if member["extension"] == "cls")
    data = bytearray(tar.read_bytes())
    data[member["offset"]] ^= 1  # "0" and "1"
    tar.write_bytes(data)
    verdict = verify(shards)
    assert found(verdict) == {("content", tar.name), ("indices", tar.name)}
    assert f"labels differ from the index: {row['key']}" in [problem.what for problem in verdict.problems]
    data[member["offset"]] = ord("7")
    tar.write_bytes(data)
    assert f"label '7' of key '{row['key']}'" in verify(shards).problems[0].what


def test_an_older_index_is_a_problem_only_where_it_no_longer_fits(shards):
    tar = shards / "shard-000000.tar"
    os.utime(index_path(tar), (1, 1))
    assert verify(shards).sound
    row = read_index(index_path(tar)).to_pylist()[0]
    flip(tar, row["members"][row["image"]]["offset"] + 50)
    problems = verify(shards).problems
    assert "is older than the tar, and no longer fits it" in [one.what for one in problems if one.check == "indices"]
    with pytest.raises(UserError, match="was changed after it was indexed"):
        Dataset.open(shards)
    index_directory(shards)
    assert not verify(shards).problems


def rewrite(shards, name, change) -> None:
    """Write a shard anew with other samples, beside its old index."""
    index = read_index(index_path(shards / name))
    with tarfile.open(shards / name) as tar:
        kept = [
            (
                row["key"],
                {m["extension"]: tar.extractfile(f"{row['key']}.{m['extension']}").read() for m in row["members"]},
            )
            for row in index.to_pylist()
        ]
    write_tar(shards / name, change(kept))


def test_every_kind_of_damage_has_its_own_line(shards):
    (shards / "shard-000000.tar").unlink()
    index_path(shards / "shard-000001.tar").write_bytes(b"garbage")
    rewrite(shards, "shard-000002.tar", lambda kept: kept[:-1])
    verdict = verify(shards)
    assert found(verdict) == {
        ("tars", "shard-000000.tar"),
        ("indices", "shard-000001.tar"),
        ("tars", "shard-000002.tar"),
        ("indices", "shard-000002.tar"),
        ("content", "shard-000002.tar"),
    } or found(verdict) == {
        ("tars", "shard-000000.tar"),
        ("indices", "shard-000001.tar"),
        ("indices", "shard-000002.tar"),
        ("content", "shard-000002.tar"),
    }  # the padding of a small tar can hide a sample's bytes
    assert verdict.looked_at["images"] == 8 + 3


def test_a_cut_tar(shards):
    tar = shards / "shard-000001.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    verdict = verify(shards)
    assert {("tars", tar.name), ("content", tar.name)} <= found(verdict)
    assert any("complete tar" in problem.what or "end mark" in problem.what for problem in verdict.problems)


def test_duplicates_and_digest_of_a_data_set_put_together_by_hand(shards):
    first, second = shards / "shard-000000.tar", shards / "shard-000001.tar"
    second.write_bytes(first.read_bytes())
    write_index(index_tar(second, IndexOptions(CLASSES)), index_path(second))
    verdict = verify(shards)
    checks = {problem.check for problem in verdict.problems}
    assert {"keys", "digest", "content"} <= checks
    key = read_index(index_path(first))["key"][0].as_py()
    assert f"key '{key}' is also in shard-000000.tar" in [problem.what for problem in verdict.problems]


def test_labels_beyond_the_classes_of_dataset_json(tmp_path):
    write_tar(tmp_path / "a.tar", [(f"k{i}", {"jpg": picture(i), "cls": b"%d" % i}) for i in range(5)])
    index_directory(tmp_path)
    info = read_info(tmp_path)
    save_info(tmp_path, info.model_copy(update={"classes": ("0", "1", "2")}))
    verdict = verify(tmp_path)
    assert found(verdict) == {("labels", "a.tar")}
    assert (verdict.problems[0].what, verdict.problems[0].count) == ("labels beyond 0 to 2: k3, k4", 2)


def test_undecodable_images_are_named_and_can_be_excluded(tmp_path):
    damaged = samples()
    for i in (3, 4, 5):
        damaged[i] = Sample(damaged[i].key, damaged[i].image[: len(damaged[i].image) // 2], damaged[i].extension, 0)
    damaged[7] = Sample("k7", b"", "jpg", 1)
    before = write_shards(damaged, tmp_path, samples_per_shard=8, classes=CLASSES)
    verdict = verify(tmp_path)
    assert sorted(one.key for one in verdict.undecodable) == ["k3", "k4", "k5", "k7"]
    assert all(one.reason for one in verdict.undecodable) and not verdict.sound and not verdict.problems
    assert read_info(tmp_path) == before
    marked = verify(tmp_path, mark_bad=True)
    assert marked.sound and marked.marked and read_info(tmp_path).known_bad == ("k3", "k4", "k5", "k7")
    after = verify(tmp_path)
    assert after.sound and after.known_bad == 4 and not (after.undecodable or after.mended)
    assert len(Dataset.open(tmp_path).good) == 16
    set_known_bad(tmp_path, ["k3", "k8"])
    again = verify(tmp_path, mark_bad=True)
    assert again.mended == ("k8",) and read_info(tmp_path).known_bad == ("k3", "k4", "k5", "k7", "k8")


def test_nothing_is_marked_while_the_data_set_is_damaged(tmp_path):
    damaged = samples()
    damaged[7] = Sample("k7", b"no image", "jpg", 1)
    write_shards(damaged, tmp_path, samples_per_shard=8, classes=CLASSES)
    index_path(tmp_path / "shard-000000.tar").unlink()
    verdict = verify(tmp_path, mark_bad=True)
    assert not verdict.marked and not verdict.sound and read_info(tmp_path).known_bad == ()
    assert [one.key for one in verdict.undecodable] == ["k7"]


def test_a_directory_without_dataset_json_is_refused(tmp_path):
    with pytest.raises(UserError, match="nml-ray data index"):
        verify(tmp_path)


def decodes(data: bytes) -> bool:
    try:
        open_image(data, 3)
    except UndecodableImage:
        return False
    return True


def test_fuzzed_images_are_named_or_counted(tmp_path):
    """300 images cut or with flipped bits: those that cannot be decoded are named, all others are counted as sound."""
    chance = random.Random(0)
    fuzzed = []
    for i in range(300):
        data = bytearray(picture(i, KINDS[i % 3], mode=("RGB", "L")[i % 2] if i % 3 < 2 else "RGB"))
        if i % 5 == 0:
            data = data[: chance.randrange(len(data))]
        else:
            for _ in range(chance.choice((1, 1, 3, 20))):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        fuzzed.append(Sample(f"f{i}", bytes(data), KINDS[i % 3], i % 2))
    write_shards(fuzzed, tmp_path, samples_per_shard=100, classes=CLASSES)
    verdict = verify(tmp_path)
    assert verdict.problems == () and verdict.looked_at["images"] == 300
    bad = {one.key for one in verdict.undecodable}
    assert bad == {sample.key for sample in fuzzed if not decodes(sample.image)} and 40 < len(bad) < 280
    assert all(f"f{i}" in bad for i in range(0, 300, 5) if len(fuzzed[i].image) < 60)


def test_fuzzed_tars_are_found(shards):
    """A bit flipped anywhere in the members of a tar, or the tar cut: never sound."""
    chance = random.Random(1)
    tar = shards / "shard-000002.tar"
    whole = tar.read_bytes()
    members = list(regular_members(whole, "x"))
    places = [
        place for m in members for place in (m.offset + chance.randrange(m.size), m.header + chance.randrange(512))
    ]
    for place in places:
        flip(tar, place)
        touch_index(tar)
        assert not verify(shards, decode=False).sound, place
        tar.write_bytes(whole)
    for _ in range(10):
        tar.write_bytes(whole[: chance.randrange(members[-1].offset)])
        assert not verify(shards).sound
    tar.write_bytes(whole)
    touch_index(tar)
    assert verify(shards).sound


def test_a_summary_counts(shards):
    set_known_bad(shards, ["k0"])
    summary = summarise(Dataset.open(shards), batch=4)
    assert (summary.samples, summary.known_bad, summary.labelled, summary.captions) == (20, 1, 19, 19)
    assert summary.class_sizes.tolist() == [9, 10] and summary.formats == {"jpg": 6, "png": 7, "webp": 6}
    assert (summary.sides["width"].median, summary.sides["height"].most) == (24, 16)
    assert summary.modes == {"RGB": 19} and summary.shards == 3 and summary.shard_samples.least == 4
    assert summary.caption_words is not None and summary.caption_words.most == 2
    assert summary.mixing is not None and summary.mixing.batch == 4 and not summary.mixing.poor


def test_shards_sorted_by_class_are_poorly_mixed(tmp_path):
    sorted_tars(tmp_path)
    index_directory(tmp_path)
    mixing = summarise(Dataset.open(tmp_path), batch=64, lanes=8, shuffle_block=10).mixing
    assert mixing is not None and mixing.poor and mixing.lanes < 20 < 50 < mixing.full


def test_a_summary_without_labels_or_readable_images(tmp_path):
    write_shards([Sample("k", b"no image", "jpg")], tmp_path, samples_per_shard=2)
    summary = summarise(Dataset.open(tmp_path))
    assert summary.mixing is None and summary.modes == {"unreadable": 1} and summary.sides == {}
    assert contact_sheet(Dataset.open(tmp_path)).getpixel((170, 4)) == (200, 30, 30)


def test_labels_without_a_class_are_refused(shards):
    save_info(shards, read_info(shards).model_copy(update={"classes": ("cat",)}))
    with pytest.raises(UserError, match="label 1 of 1 classes"):
        summarise(Dataset.open(shards))


def test_empty_shards_are_no_trouble(tmp_path):
    write_tar(tmp_path / "a.tar", [])
    write_tar(tmp_path / "b.tar", [("k", {"jpg": picture(0), "txt": b" a  caption "})])
    write_tar(tmp_path / "c.tar", [])
    index_directory(tmp_path)
    assert verify(tmp_path).sound
    summary = summarise(Dataset.open(tmp_path))
    assert summary.samples == 1 and summary.caption_words is not None and summary.caption_words.most == 2
    assert contact_sheet(Dataset.open(tmp_path)).size[1] == 104


def test_a_contact_sheet_shows_the_images(shards):
    sheet = contact_sheet(Dataset.open(shards), rows=2, columns=3)
    assert sheet.size == (170 + 3 * 100 + 4, 2 * 100 + 4)
    data = Dataset.open(shards)
    pixels = np.asarray(sheet)
    for row in range(2):
        for column in range(3):
            tile = pixels[4 + 100 * row :, 170 + 100 * column :][:96, :96]
            assert (tile != 255).any(axis=2).mean() > 0.5
    assert np.array_equal(pixels, np.asarray(contact_sheet(data, rows=2, columns=3)))
