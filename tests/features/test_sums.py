import numpy as np
import pytest

from nml_ray.features.sums import Sums, merged


def rows(count: int, dim: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, dim)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_sums_of_portions_equal_the_whole(dtype, tmp_path):
    values = rows(100, 7, dtype)
    sums = Sums(7)
    for start in range(0, 100, 32):
        sums.add(values[start : start + 32])
    exact = values.astype(np.float64)
    assert sums.count == 100
    assert np.array_equal(sums.gram["raw"], sums.gram["raw"].T)
    np.testing.assert_allclose(sums.gram["raw"], exact.T @ exact, rtol=1e-12)
    np.testing.assert_allclose(sums.mean["raw"], exact.mean(axis=0), atol=1e-14)
    unit = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    unit -= unit.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(sums.gram["official"], unit.T @ unit, rtol=1e-9, atol=1e-12)


def test_saving_loses_nothing(tmp_path):
    sums = Sums(5, ["official"])
    sums.add(rows(40, 5))
    sums.save(tmp_path / "a.sums.npz")
    again = Sums.load(tmp_path / "a.sums.npz")
    assert again.transforms == ("official",) and again.count == 40
    assert np.array_equal(again.gram["official"], sums.gram["official"])
    assert np.array_equal(again.mean["official"], sums.mean["official"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.sums.npz"]


def test_merging_files(tmp_path):
    parts = [rows(10, 3), np.zeros((0, 3), np.float32), rows(25, 3)]
    for number, part in enumerate(parts):
        sums = Sums(3)
        sums.add(part)
        sums.save(tmp_path / f"{number}.npz")
    total = merged(sorted(tmp_path.iterdir()))
    exact = np.concatenate(parts).astype(np.float64)
    assert total.count == 35
    np.testing.assert_allclose(total.gram["raw"], exact.T @ exact, rtol=1e-12)
    np.testing.assert_allclose(total.mean["raw"], exact.mean(axis=0), atol=1e-14)


def test_a_row_of_zeros_stays_zero_under_official():
    sums = Sums(4)
    sums.add(np.zeros((2, 4), np.float32))
    assert not sums.gram["official"].any()
