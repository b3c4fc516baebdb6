"""Keyed draws against the golden values and their own properties."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nml_ray.data.draw import draw, draw_one, key_hashes, mix, uniform
from tests.oracle_folders import folders

FOLDERS = folders("NML_ORACLES_NOISE", "noise", "ledger.csv")
NUMBERS = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_draws_equal_the_golden_ones(folder):
    with open(folder / "draws.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        hashes = key_hashes([row["key"]])
        fields = [int(f) for f in row["fields"].split()]
        assert int(hashes[0]) == int(row["key_hash"])
        assert int(draw(row["tag"], int(row["seed"]), hashes, *fields)[0]) == int(row["draw"]), row


def test_mix_is_splitmix64():
    # First outputs of the reference generator seeded with 0: mix(0), mix(gamma).
    states = np.array([0, 0x9E3779B97F4A7C15], dtype=np.uint64)
    assert mix(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.integers(0, 2**64 - 1), st.lists(NUMBERS, max_size=3))
def test_array_fields_equal_number_fields(hashes, seed, fields):
    hashes = np.array(hashes, dtype=np.uint64)
    arrays = [np.full(len(hashes), field, dtype=np.uint64) for field in fields]
    expected = draw("flip", seed, hashes, *fields)
    assert expected.dtype == np.uint64
    np.testing.assert_array_equal(draw("flip", seed, hashes, *arrays), expected)


def test_array_and_number_fields_mix():
    hashes = key_hashes(["a", "b", "c"])
    repeat = np.array([0, 1, 2])
    drawn = draw("crop", 5, hashes, 3, repeat, 9)
    assert drawn.tolist() == [draw_one("crop", 5, key, 3, r, 9) for key, r in zip("abc", range(3), strict=True)]


def test_uniform_lies_in_the_unit_interval():
    ends = uniform(np.array([0, 2**64 - 1, 2**63], dtype=np.uint64))
    assert ends.tolist() == [0.0, 1 - 2.0**-53, 0.5]


def test_different_hashes_never_draw_the_same_number():
    drawn = draw("order", 1, np.arange(100_000, dtype=np.uint64), 7)
    assert len(np.unique(drawn)) == len(drawn)


def test_many_draws_are_those_of_their_parts():
    hashes = key_hashes(str(number) for number in range(70_000))
    repeat = np.arange(70_000) % 3
    for fields in ((), (4,), (4, repeat), (repeat, 9)):
        whole = draw("crop", 5, hashes, *fields)
        for part in (slice(0, 7), slice(65_530, 65_540), slice(69_990, None)):
            own = [field[part] if isinstance(field, np.ndarray) else field for field in fields]
            np.testing.assert_array_equal(whole[part], draw("crop", 5, hashes[part], *own))
