import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.decode import open_image
from nml_ray.data.indexing import set_known_bad
from nml_ray.data.prefetch import Prefetcher
from nml_ray.data.reader import ShardReader
from nml_ray.features.config import ExtractSettings
from nml_ray.features.extract import Extractor, extract_all, facts_of
from nml_ray.features.plan import all_items, left_to_do, splits_of
from nml_ray.features.store import read_split
from nml_ray.features.sums import merged
from nml_ray.models.encoder import load_encoder
from nml_ray.models.preprocess import fit_image, normalised
from nml_ray.storage.link import Link, write_link


def extract(plan):
    return extract_all(plan, left_to_do(plan, all_items(plan)), lambda images: None)


def files(directory: str) -> dict[str, bytes]:
    root = Path(directory)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_features_are_the_encoders_of_each_image(make_plan, images):
    plan = make_plan()
    seen: list[int] = []
    items = all_items(plan)
    done = extract_all(plan, items, seen.append)
    assert [(item.split, item.shard) for item in done] == [
        ("train", "shard-000000"),
        ("train", "shard-000001"),
        ("train", "shard-000002"),
        ("test", "shard-000000"),
    ]
    assert sum(seen) == 28
    for split in ("train", "test"):
        dataset = Dataset.open(images / split)
        reader = ShardReader(dataset)
        for described in plan.encoders:
            features = read_split(Path(described.attempt), split)
            assert list(features.keys) == dataset.keys.to_pylist()
            assert np.array_equal(features.labels, dataset.label)
            encoder = load_encoder(Path(described.directory))
            pixels = np.stack(
                [
                    fit_image(open_image(reader.read(n), encoder.input.channels), encoder.input)
                    for n in range(len(dataset))
                ]
            )
            with torch.no_grad():
                expected = encoder(normalised(pixels, encoder.input)).numpy()
            np.testing.assert_allclose(features.values, expected, rtol=1e-4, atol=1e-5)
            sums = merged(sorted((Path(described.attempt) / split).glob("*.sums.npz")))
            exact = features.values.astype(np.float64)
            np.testing.assert_allclose(sums.gram["raw"], exact.T @ exact, rtol=1e-12)
            assert sums.count == len(dataset)
    assert facts_of(plan, 1, items) == {
        "samples": {"train": 23, "test": 5},
        "dim": 24,
        "dtype": "float32",
        "transforms": ["raw", "official"],
    }


def test_tars_of_an_object_store_come_before_they_are_read(make_plan, images, bucket, tmp_path, monkeypatch):
    """Each tar once, in the order of the items; the features are those of the local images."""
    local = make_plan("local")
    extract(local)
    (tmp_path / "links").mkdir()
    for split in ("train", "test"):
        bucket.put(images / split, split)
        write_link(tmp_path / "links" / split, Link(str(bucket.at(split)), str(tmp_path / "cache"), "10MB"))
    asked: list[str] = []
    ask = Prefetcher.ask

    def heard(prefetcher: Prefetcher, shards: list[int], share: int) -> None:
        asked.extend(f"{prefetcher._dataset.directory.name}/{shard}" for shard in shards)
        ask(prefetcher, shards, share)

    monkeypatch.setattr(Prefetcher, "ask", heard)
    plan = replace(make_plan("remote"), data=str(tmp_path / "links"))
    extract(plan)
    assert asked == ["train/0", "train/1", "train/2", "test/0"]
    assert bucket.faults.count("GET", ".tar") == 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("prefetch", "decode"))]
    for here, there in zip(local.encoders, plan.encoders, strict=True):
        assert files(there.attempt) == files(here.attempt)


def test_an_encoder_alone_gives_the_same_bytes_as_in_company(make_plan):
    together = make_plan("together", decode_threads=2)
    extract(together)
    for described in together.encoders:
        alone = make_plan(f"alone-{described.name}", use=[described.name])
        extract(alone)
        assert files(alone.encoders[0].attempt) == files(described.attempt)


def test_extraction_goes_on_where_an_earlier_attempt_ended(make_plan):
    whole = make_plan("whole")
    extract(whole)
    first = make_plan("first")
    with Extractor(first) as extractor:
        items = all_items(first)
        extractor.extract(items[0])
        extractor.extract(replace(items[1], encoders=(1,)))
    second = make_plan("second")
    second = replace(
        second,
        encoders=tuple(
            replace(new, earlier=(old.attempt,)) for new, old in zip(second.encoders, first.encoders, strict=True)
        ),
    )
    left = left_to_do(second, all_items(second))
    assert [(item.split, item.shard, item.encoders) for item in left] == [
        ("train", "shard-000001", (0,)),
        ("train", "shard-000002", (0, 1)),
        ("test", "shard-000000", (0, 1)),
    ]
    extract_all(second, left, lambda images: None)
    assert left_to_do(second, all_items(second)) == []
    for one, other in zip(whole.encoders, second.encoders, strict=True):
        assert files(one.attempt) == files(other.attempt)


def test_float16_sums_are_over_the_values_as_stored(make_plan):
    plan = make_plan(settings={"dtype": "float16"})
    extract(plan)
    directory = Path(plan.encoders[0].attempt)
    features = read_split(directory, "test")
    assert features.values.dtype == np.float16
    exact = features.values.astype(np.float64)
    np.testing.assert_allclose(merged(sorted((directory / "test").glob("*.npz"))).gram["raw"], exact.T @ exact)


def test_an_encoder_that_gives_no_numbers_fails_alone(make_plan, encoders):
    file = encoders["colour"] / "encoder.safetensors"
    tensors = load_file(file)
    tensors["stem.weight"][:] = float("nan")
    save_file(tensors, file)
    plan = make_plan()
    done = extract(plan)
    assert all(list(shard.failures) == [1] for shard in done)
    assert "NaN" in done[0].failures[1]
    assert len(read_split(Path(plan.encoders[0].attempt), "train")) == 23


def test_known_bad_samples_have_no_row(make_plan, images):
    set_known_bad(images / "test", ["test/101"])
    plan = make_plan()
    extract(plan)
    keys = list(read_split(Path(plan.encoders[0].attempt), "test").keys)
    assert len(keys) == 4
    assert "test/101" not in keys
    assert facts_of(plan, 0, all_items(plan))["samples"]["test"] == 4


def test_an_undecodable_image_is_named(make_plan, images):
    tar = images / "test" / "shard-000000.tar"
    status = tar.stat()
    tar.write_bytes(tar.read_bytes().replace(b"IDAT", b"IDAX"))
    os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UserError, match=r"sample test/\d+ cannot be decoded .*nml-ray data verify"):
        extract(make_plan())


def test_splits_are_chosen_and_checked(make_plan, tmp_path):
    assert splits_of(make_plan("a")) == ["train", "test"]
    assert splits_of(make_plan("b", settings={"splits": ["test"]})) == ["test"]
    with pytest.raises(UserError, match=r"extract\.splits: the data has no split ood; expected test, train"):
        splits_of(make_plan("c", settings={"splits": ["ood"]}))
    with pytest.raises(UserError, match="holds no indexed shards"):
        splits_of(replace(make_plan("d"), data=str(tmp_path / "a")))


def test_rows_that_are_missing_are_noticed(make_plan, images):
    plan = make_plan()
    items = all_items(plan)
    set_known_bad(images / "test", ["test/101"])
    extract(plan)
    set_known_bad(images / "test", [])
    with pytest.raises(UserError, match=r"1 samples without a row \(first: test/101\)"):
        facts_of(plan, 0, items)


def test_a_lower_precision_is_near_and_stored_as_asked(make_plan):
    exact, lower = make_plan("exact"), make_plan("lower", settings={"precision": "bfloat16", "dtype": "float16"})
    extract(exact)
    extract(lower)
    for one, other in zip(exact.encoders, lower.encoders, strict=True):
        near, far = (read_split(Path(each.attempt), "train").values for each in (other, one))
        assert near.dtype == np.float16
        assert not np.array_equal(near, far.astype(np.float16))
        assert np.abs(near - far).max() < 0.05 * np.abs(far).max()


def test_only_another_precision_changes_what_is_hashed():
    assert "precision" not in ExtractSettings().hashed()
    assert ExtractSettings(precision="bfloat16").hashed()["precision"] == "bfloat16"
