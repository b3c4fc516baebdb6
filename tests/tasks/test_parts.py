"""Parts drawn by key: of the right size, the same whatever the order, nested, and fair to every class."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nml_ray.data.draw import key_hashes
from nml_ray.tasks.parts import cut, fraction


def hashes_of(count: int) -> np.ndarray:
    return key_hashes(f"key/{number}" for number in range(count))


SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.sampled_from(["0.01", "0.1", "0.25", "0.5", "0.99"]))
def test_a_share_leaves_every_class_a_sample(sizes: list[int], share: str) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    parts = cut(labels, hashes_of(len(labels)), {"validation": {"share": share}}, 0)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(labels)))
    assert set(labels[parts["train"]]) == set(labels)
    wanted = int(np.floor(float(share) * len(labels) + 0.5))
    assert len(parts["validation"]) == min(wanted, len(labels) - len(sizes))


@settings(max_examples=60, deadline=None)
@given(SIZES)
def test_fractions_lie_inside_each_other(sizes: list[int]) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    hashes = hashes_of(len(labels))
    found = [set(fraction(labels, hashes, share)) for share in ("0.1", "0.25", "0.75", "1")]
    assert all(one <= two for one, two in pairwise(found))
    assert all({labels[row] for row in one} == set(labels.tolist()) for one in found)
    assert [len(one) for one in found] == [
        max(int(np.floor(share * len(labels) + 0.5)), len(sizes)) for share in (0.1, 0.25, 0.75, 1)
    ]


def test_a_fraction_takes_the_same_share_of_every_class() -> None:
    labels = np.repeat(np.arange(3), [1000, 200, 10])
    rows = fraction(labels, hashes_of(1210), "0.25")
    assert np.abs(np.bincount(labels[rows]) - [250, 50, 2.5]).max() <= 1.5


def test_keep_takes_all_others_and_a_seed_draws_anew() -> None:
    labels = np.repeat(np.arange(4), 50)
    first, again, other = (
        cut(labels, hashes_of(200), {"test": {"keep": 30}, "validation": {"share": "0.1"}}, seed) for seed in (0, 0, 1)
    )
    assert {split: len(rows) for split, rows in first.items()} == {"train": 108, "test": 80, "validation": 12}
    assert np.bincount(labels[first["test"]]).tolist() == [20] * 4
    assert np.bincount(labels[first["validation"]]).tolist() == [3] * 4
    assert all(np.array_equal(first[split], again[split]) for split in first)
    assert not np.array_equal(first["test"], other["test"])


@pytest.mark.parametrize("share", ["0.1", "0.5"])
def test_the_order_of_the_samples_changes_nothing(share: str) -> None:
    labels, hashes = np.arange(90) % 7, hashes_of(90)
    order = np.random.default_rng(0).permutation(90)
    for rows, shuffled in (
        (fraction(labels, hashes, share), fraction(labels[order], hashes[order], share)),
        *(
            (one[split], two[split])
            for one, two in [
                (
                    cut(labels, hashes, {"validation": {"share": share}}, 3),
                    cut(labels[order], hashes[order], {"validation": {"share": share}}, 3),
                )
            ]
            for split in one
        ),
    ):
        assert set(rows) == set(order[shuffled])
