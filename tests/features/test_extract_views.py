"""Several views of training images, samples that are left out, and texts."""

import io
import json
import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nml_ray.config.errors import UserError
from nml_ray.data.augment import CropDraws, ResizedCropAugmentation, ShiftAugmentation, flips
from nml_ray.data.dataset import Dataset
from nml_ray.data.decode import decode_image
from nml_ray.data.indexing import index_directory
from nml_ray.data.reader import ShardReader
from nml_ray.data.shards import Sample, write_shards
from nml_ray.data.transform import write_crop
from nml_ray.features.config import ExtractSettings
from nml_ray.features.extract import Extractor, extract_all, facts_of
from nml_ray.features.plan import EncoderPlan, ExtractionPlan, all_items, left_to_do
from nml_ray.features.store import feature_path, read_split, read_table, verify_shard, write_shard
from nml_ray.features.sums import merged
from nml_ray.models.encoder import load_encoder
from nml_ray.models.preprocess import normalised

THREE = {"views": 3, "seed": 5}


def extract(plan):
    return extract_all(plan, left_to_do(plan, all_items(plan)), lambda images: None)


def files(directory: str, split: str = "") -> dict[str, bytes]:
    root = Path(directory) / split
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_views_are_one_plain_and_the_others_drawn_by_key(make_plan, images):
    plain, plan = make_plan("plain"), make_plan("views", settings=THREE)
    extract(plain)
    extract(plan)
    dataset = Dataset.open(images / "train")
    reader = ShardReader(dataset)
    augmentation = ResizedCropAugmentation()
    for once, described in zip(plain.encoders, plan.encoders, strict=True):
        alone, features = (read_split(Path(one.attempt), "train") for one in (once, described))
        assert features.views is not None and features.views.shape == (3, 23, alone.values.shape[1])
        assert list(features.keys) == list(alone.keys)
        assert np.array_equal(features.labels, alone.labels)
        assert np.array_equal(features.values, alone.values)
        assert np.array_equal(features.views[0], alone.values)
        encoder = load_encoder(Path(described.directory))
        spec = encoder.input
        for view in (1, 2):
            draws = CropDraws(augmentation, 5, dataset.key_hash, view)
            mirrored = flips(5, dataset.key_hash, view)
            pixels = np.empty((23, spec.size, spec.size, spec.channels), np.uint8)
            for number in range(23):
                image = decode_image(reader.read(number), 3)
                if spec.channels == 1:
                    image = np.asarray(Image.fromarray(image).convert("L"))[:, :, None]
                box = draws.box(number, image.shape[1], image.shape[0])
                write_crop(pixels[number], image, lambda *_, box=box: box, bool(mirrored[number]))
            with torch.inference_mode():
                expected = encoder(normalised(pixels, spec)).numpy()
            np.testing.assert_allclose(features.views[view], expected, rtol=1e-4, atol=1e-5)
        assert files(described.attempt, "test") == files(once.attempt, "test")
        sums = [merged(sorted((Path(one.attempt) / "train").glob("*.npz"))) for one in (once, described)]
        assert np.array_equal(sums[0].gram["raw"], sums[1].gram["raw"])
        assert sums[1].count == 23


def test_facts_prove_one_row_a_sample_and_view(make_plan):
    plan = make_plan(settings=THREE, use=["grey"])
    extract(plan)
    items = all_items(plan)
    facts = facts_of(plan, 0, items)
    assert facts["samples"] == {"train": 23, "test": 5} and facts["views"] == 3
    path = feature_path(Path(plan.encoders[0].attempt), "train", "shard-000001")
    shard = read_table(path)
    keys = shard["key"].to_pylist()[: len(shard) // 3]
    labels, values = np.zeros(len(keys), np.int64), np.zeros((2, len(keys), 16), np.float32)
    write_shard(path, keys, labels, values)
    with pytest.raises(UserError, match=r"2 view\(s\) of each sample; expected 3"):
        facts_of(plan, 0, items)
    write_shard(path, keys[1:], labels[1:], np.zeros((3, len(keys) - 1, 16), np.float32))
    with pytest.raises(UserError, match=f"1 samples without a row \\(first: {keys[0]}\\)"):
        facts_of(plan, 0, items)


def test_views_resume_by_shard(make_plan):
    whole, first = make_plan("whole", settings=THREE), make_plan("first", settings=THREE)
    extract(whole)
    with Extractor(first) as extractor:
        extractor.extract(all_items(first)[1])
    second = make_plan("second", settings=THREE, decode_threads=2)
    pairs = zip(second.encoders, first.encoders, strict=True)
    second = replace(second, encoders=tuple(replace(new, earlier=(old.attempt,)) for new, old in pairs))
    assert len(left_to_do(second, all_items(second))) == 3
    extract(second)
    for one, other in zip(whole.encoders, second.encoders, strict=True):
        assert files(one.attempt) == files(other.attempt)


def test_small_images_are_shifted(make_plan):
    shift = {"kind": "shift", "pixels": 2}
    plans = [make_plan(f"v{views}", use=["grey"], settings={"views": views, "augmentation": shift}) for views in (2, 4)]
    for plan in plans:
        extract(plan)
    two, four = (read_split(Path(plan.encoders[0].attempt), "train").views for plan in plans)
    assert np.array_equal(two, four[:2])
    assert not any(np.allclose(four[0], view) for view in four[1:])
    assert ExtractSettings(views=2, augmentation=shift).augmentation == ShiftAugmentation(pixels=2)


def test_options_without_effect_are_not_hashed():
    plain = ExtractSettings().hashed()
    assert not {"views", "augmentation", "seed", "undecodable"} & set(plain)
    assert ExtractSettings(seed=4, undecodable="fail").hashed() == plain
    assert ExtractSettings(views=2).hashed()["augmentation"]["kind"] == "resized_crop"
    assert ExtractSettings(undecodable="skip").hashed()["undecodable"] == "skip"


def broken(images: Path, split: str, keys: set[str]) -> None:
    """Spoil the pixels of some samples, as if they had decoded when they were indexed."""
    dataset = Dataset.open(images / split)
    for number, key in enumerate(dataset.keys.to_pylist()):
        if key in keys:
            tar = Path(str(dataset.shard_location(int(dataset.shard_number[number]))))
            status, data = tar.stat(), bytearray(tar.read_bytes())
            at = int(dataset.image_offset[number])
            data[at : at + 8] = bytes(8)
            tar.write_bytes(data)
            os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("views", [1, 2])
def test_undecodable_samples_are_left_out_and_named(make_plan, images, views):
    whole = make_plan("whole", settings={"views": views})
    extract(whole)
    broken(images, "train", {"train/3", "train/20"})
    plan = make_plan("skip", settings={"undecodable": "skip", "views": views})
    done = extract(plan)
    assert not any(shard.failures for shard in done)
    facts = facts_of(plan, 0, all_items(plan))
    assert facts["samples"] == {"train": 21, "test": 5}
    named = facts["undecodable"]["train"]
    assert named["count"] == 2
    assert named["first"] == dict.fromkeys(("train/3", "train/20"), "no image of a known format")
    for one, other in zip(whole.encoders, plan.encoders, strict=True):
        before, after = (read_split(Path(described.attempt), "train") for described in (one, other))
        kept = [row for row, key in enumerate(before.keys) if key not in named["first"]]
        assert list(after.keys) == [before.keys[row] for row in kept]
        assert np.array_equal(after.values, before.values[kept])
        if views > 1:
            assert np.array_equal(after.views, before.views[:, kept])


def test_a_split_of_which_all_are_known_to_be_bad_is_refused(make_plan, images):
    path = images / "test" / "dataset.json"
    info = {**json.loads(path.read_bytes()), "known_bad": [f"test/{number}" for number in range(100, 105)]}
    path.write_text(json.dumps(info))
    plan = make_plan(use=["grey"])
    extract(plan)
    with pytest.raises(UserError, match=r"none of 5 samples of test can be decoded \(all are known to be bad"):
        facts_of(plan, 0, all_items(plan))


def test_a_split_of_which_nothing_can_be_decoded_is_refused(make_plan, images):
    broken(images, "test", {f"test/{number}" for number in range(100, 105)})
    plan = make_plan(settings={"undecodable": "skip"}, use=["grey"])
    extract(plan)
    with pytest.raises(UserError, match=r"none of 5 samples of test can be decoded \(no image of a known format\)"):
        facts_of(plan, 0, all_items(plan))


def test_left_out_samples_must_be_the_shards_own(tmp_path):
    labels, values = np.zeros(1, np.int64), np.zeros((1, 2), np.float32)
    write_shard(tmp_path / "a", ["x"], labels, values, skipped={"y": "damaged"})
    assert verify_shard(tmp_path / "a", ["x", "y"]) == {"y": "damaged"}
    with pytest.raises(UserError, match=r"1 rows of other samples \(first: y\)"):
        verify_shard(tmp_path / "a", ["x"])


@pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra 'transformers'")
@pytest.mark.long
def test_captions_and_txt_members_become_features(tmp_path):
    from nml_ray.models.tokens import tokens_of
    from tests.models.tiny_models import tiny_bert_encoder

    directory = tiny_bert_encoder(tmp_path / "bert", "mean")
    texts = ["a red kite", "green kite a a", "a"]
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG")
    samples = [Sample(f"s{n}", buffer.getvalue(), "png", label=n % 2, caption=text) for n, text in enumerate(texts)]
    write_shards(samples, tmp_path / "data" / "train", samples_per_shard=9, classes=("a", "b"))
    write_texts(tmp_path / "data" / "test" / "t.tar", texts)
    index_directory(tmp_path / "data" / "test", image="txt")
    attempt = tmp_path / "out"
    plan = ExtractionPlan(
        str(tmp_path / "data"), {"batch": 2}, ("raw",), (EncoderPlan("t", str(directory), str(attempt)),)
    )
    extract(plan)
    facts_of(plan, 0, all_items(plan))
    encoder = load_encoder(directory)
    with torch.inference_mode():
        expected = encoder(torch.as_tensor(tokens_of(texts, encoder.input)).long()).numpy()
    for split in ("train", "test"):
        features = read_split(attempt, split)
        order = np.argsort(features.keys)
        np.testing.assert_allclose(features.values[order], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"extract\.views: several views of texts; expected 1"):
        Extractor(replace(plan, settings={"views": 2}))


def write_texts(tar: Path, texts: list[str]) -> None:
    """A tar without images: NAME.txt and NAME.cls."""
    import tarfile

    tar.parent.mkdir(parents=True)
    with tarfile.open(tar, "w") as file:
        for number, text in enumerate(texts):
            for extension, content in (("txt", text), ("cls", "0")):
                member = tarfile.TarInfo(f"s{number}.{extension}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content.encode()))
