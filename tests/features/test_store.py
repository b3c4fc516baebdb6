import os

import numpy as np
import pyarrow as pa
import pytest

from nml_ray.config.errors import UserError
from nml_ray.features.store import feature_path, read_shard, read_split, verify_shard, write_shard
from nml_ray.features.sums import Sums


def shard(rows: int, dim: int = 5, seed: int = 0):
    draws = np.random.default_rng(seed)
    keys = [f"{seed}/{row}" for row in range(rows)]
    return keys, draws.integers(0, 9, rows), draws.normal(size=(rows, dim)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("rows", [0, 1, 100])
def test_a_shard_is_read_as_written(tmp_path, dtype, rows):
    keys, labels, values = shard(rows)
    path = feature_path(tmp_path, "test", "shard-000000")
    write_shard(path, keys, labels, values, dtype)
    stored = read_shard(path)
    assert list(stored.keys) == keys
    assert np.array_equal(stored.labels, labels)
    assert stored.values.dtype == dtype
    assert np.array_equal(stored.values, values.astype(dtype))
    assert stored.values.shape == (rows, 5)
    assert [file.name for file in path.parent.iterdir()] == ["shard-000000.features.arrow"]


def test_the_file_is_plain_arrow_and_mapped(tmp_path):
    keys, labels, values = shard(100, dim=64)
    path = tmp_path / "a.features.arrow"
    write_shard(path, keys, labels, values, "float16")
    before = pa.total_allocated_bytes()
    stored = read_shard(path)
    assert pa.total_allocated_bytes() - before < values.nbytes // 4
    assert not stored.values.flags.writeable
    assert pa.ipc.open_file(path.read_bytes()).schema.field("features").type == pa.list_(pa.float16(), 64)


def test_a_split_is_its_shards_in_order(tmp_path):
    parts = [shard(rows, seed=rows) for rows in (3, 0, 7)]
    for number in (2, 0, 1):
        write_shard(feature_path(tmp_path, "train", f"shard-{number:06d}"), *parts[number])
    split = read_split(tmp_path, "train")
    assert len(split) == 10
    assert list(split.keys) == [key for part in parts for key in part[0]]
    assert np.array_equal(split.values, np.concatenate([part[2] for part in parts]))


def test_an_absent_split_names_those_that_are_there(tmp_path):
    write_shard(feature_path(tmp_path, "train", "a"), *shard(3))
    with pytest.raises(UserError, match="no features of split ood; expected train"):
        read_split(tmp_path, "ood")


def test_float16_overflow_is_an_error(tmp_path):
    keys, labels, values = shard(4)
    values[2, 1] = 1e5
    with pytest.raises(UserError, match=r"overflows float16; .*set extract\.dtype: float32"):
        write_shard(tmp_path / "a", keys, labels, values, "float16")
    write_shard(tmp_path / "a", keys, labels, values, "float32")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_an_error(tmp_path, value):
    keys, labels, values = shard(4)
    values[2, 1] = value
    with pytest.raises(UserError, match="1 of 4 rows of features hold NaN or infinity"):
        write_shard(tmp_path / "a", keys, labels, values)


def test_a_file_cut_short_is_an_error(tmp_path):
    path = tmp_path / "a.features.arrow"
    write_shard(path, *shard(50))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"a\.features\.arrow: cannot be read"):
        read_shard(path)


def test_widths_that_differ_are_an_error(tmp_path):
    write_shard(feature_path(tmp_path, "train", "a"), *shard(3, dim=2))
    write_shard(feature_path(tmp_path, "train", "b"), *shard(3, dim=4, seed=1))
    with pytest.raises(UserError, match=r"features \[2, 4\] wide"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda keys: keys[:-1], "1 samples without a row"),
        (lambda keys: [*keys, "x"], "1 rows of other samples"),
        (lambda keys: [*keys, keys[0]], "1 rows too many"),
        (lambda keys: keys[::-1], "another order"),
    ],
)
def test_one_row_a_sample_is_proved_by_the_keys(tmp_path, change, message):
    keys, _, _ = shard(4)
    changed = change(keys)
    write_shard(tmp_path / "a", changed, np.zeros(len(changed), np.int64), np.zeros((len(changed), 2), np.float32))
    verify_shard(tmp_path / "a", changed)
    with pytest.raises(UserError, match=message):
        verify_shard(tmp_path / "a", keys)


def test_two_machines_that_write_a_shard_with_the_same_pid_do_not_meet(tmp_path, monkeypatch):
    path, asides = feature_path(tmp_path, "test", "shard-000000"), []
    monkeypatch.setattr(os, "replace", lambda aside, path: asides.append(aside))
    for _ in range(2):
        write_shard(path, *shard(10))
        Sums(5, ["raw"]).save(path.with_name("shard-000000.sums.npz"))
    assert len(set(asides)) == 4
