"""Order against the golden files, and its properties."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nml_ray.config.errors import UserError
from nml_ray.data.draw import draw, draw_one, key_hashes
from nml_ray.data.order import (
    Lanes,
    default_lanes,
    default_microbatch,
    distinct_classes,
    epoch_order,
    validation_order,
    worker_microbatches,
)
from tests.oracle_folders import folders

FOLDERS = folders("NML_ORACLES_NOISE", "noise", "ledger.csv")


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def layout(sizes, lanes=None, block=4096):
    return Lanes(np.repeat(np.arange(len(sizes)), sizes), [f"x-{i}.tar" for i in range(len(sizes))], lanes, block)


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
@pytest.mark.parametrize("kind", ["full", "lanes"])
def test_golden_order(folder, kind):
    sizes = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    keys = [row["key"] for row in read_csv(folder / "ledger.csv")]
    shards = sizes["shards"]
    lanes = Lanes(
        np.repeat(np.arange(len(shards)), list(shards.values())), list(shards), sizes["lanes"], sizes["shuffle_block"]
    )
    orders = {}
    for row in read_csv(folder / "order.csv"):
        epoch = int(row["epoch"])
        if epoch not in orders:
            orders[epoch] = epoch_order(
                key_hashes(keys),
                seed=sizes["order_seed"],
                epoch=epoch,
                batch=sizes["batch"],
                lanes=lanes if kind == "lanes" else None,
            )
        assert keys[orders[epoch].batch(int(row["step"]))[int(row["place"])]] == row[kind], row
    assert orders


@st.composite
def epochs(draw_from):
    """(key hashes, keyword arguments of epoch_order), sizes that fit."""
    per_copy = draw_from(st.integers(1, 12))
    repeats = draw_from(st.integers(1, 3))
    batch = per_copy * repeats
    sizes = draw_from(st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(lambda s: sum(s) >= batch))
    lanes = None
    if draw_from(st.booleans()):
        counts = [d for d in range(1, per_copy + 1) if per_copy % d == 0]
        lanes = layout(sizes, draw_from(st.sampled_from([None, *counts])), draw_from(st.integers(1, 50)))
    arguments = {
        "seed": draw_from(st.integers(0, 2**64 - 1)),
        "epoch": draw_from(st.integers(0, 1000)),
        "batch": batch,
        "repeats": repeats,
        "lanes": lanes,
    }
    return key_hashes(f"k{i}" for i in range(sum(sizes))), arguments


@settings(max_examples=100, deadline=None)
@given(epochs())
def test_every_sample_is_fed_once_or_dropped(case):
    hashes, arguments = case
    order = epoch_order(hashes, **arguments)
    assert order.steps == len(hashes) // arguments["batch"]
    fed = np.concatenate([order.batch(step) for step in range(order.steps)])
    samples, times = np.unique(fed, return_counts=True)
    assert set(times.tolist()) == {arguments["repeats"]}
    assert sorted([*samples.tolist(), *order.dropped.tolist()]) == list(range(len(hashes)))


def lanes_as_written(hashes, sizes, lanes, block, seed, epoch, batch):
    """`order: lanes` as its contract words it, sample by sample."""
    names, starts = [f"x-{i}.tar" for i in range(len(sizes))], np.cumsum([0, *sizes]).tolist()
    drawn = draw("order", seed, hashes, epoch).tolist()
    stream: list[int] = []
    for shard in sorted(range(len(sizes)), key=lambda s: draw_one("shards", seed, names[s], epoch)):
        stream += range(starts[shard], starts[shard + 1])
    turn = draw_one("rotate", seed, "", epoch) % len(stream)
    stream = stream[turn:] + stream[:turn]
    steps = len(stream) // batch
    run, own = steps * batch // lanes, batch // lanes
    mixed = []
    for lane in range(lanes):
        part = stream[lane * run : (lane + 1) * run]
        cut = [part[k : k + block] for k in range(0, run, block)]
        mixed.append([sample for one in cut for sample in sorted(one, key=lambda sample: drawn[sample])])
    return [[sample for lane in mixed for sample in lane[k * own : (k + 1) * own]] for k in range(steps)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 50))
def test_lanes_are_as_written(sizes, lanes, own, block):
    batch = lanes * own
    if sum(sizes) < batch:
        return
    hashes = key_hashes(f"k{i}" for i in range(sum(sizes)))
    order = epoch_order(hashes, seed=3, epoch=1, batch=batch, lanes=layout(sizes, lanes, block))
    expected = lanes_as_written(hashes, sizes, lanes, block, 3, 1, batch)
    assert [order.batch(step).tolist() for step in range(order.steps)] == expected


@settings(max_examples=50, deadline=None)
@given(epochs(), st.integers(1, 8))
def test_microbatches_do_not_depend_on_workers(case, workers):
    hashes, arguments = case
    order = epoch_order(hashes, microbatch=1, **arguments)
    count = arguments["batch"]
    shares = [worker_microbatches(count, worker, workers) for worker in range(workers)]
    assert sorted(m for share in shares for m in share) == list(range(count))
    fed = np.empty((count, 1), dtype=np.int64)
    for share in shares:
        fed[list(share)] = order.microbatches(0)[list(share)]
    assert fed.ravel().tolist() == order.batch(0).tolist()


@settings(max_examples=50, deadline=None)
@given(epochs())
def test_copies_stand_together(case):
    hashes, arguments = case
    order = epoch_order(hashes, **arguments)
    batch = order.batch(0).reshape(-1, arguments["repeats"])
    assert (batch == batch[:, :1]).all()
    assert order.copies().tolist() == list(range(arguments["repeats"])) * len(batch)


def test_full_order_does_not_depend_on_sharding():
    keys = [f"k{i}" for i in range(100)]
    shuffled = keys[50:] + keys[:50]
    one = epoch_order(key_hashes(keys), seed=1, epoch=2, batch=8)
    other = epoch_order(key_hashes(shuffled), seed=1, epoch=2, batch=8)
    assert [keys[i] for i in one.batches.ravel()] == [shuffled[i] for i in other.batches.ravel()]


def test_lanes_do_not_depend_on_the_order_of_the_shard_list():
    sizes = [30, 20, 25]
    keys = [f"k{i}" for i in range(75)]
    one = epoch_order(key_hashes(keys), seed=1, epoch=2, batch=8, lanes=layout(sizes, 4, 10))
    moved = keys[50:] + keys[:50]
    lanes = Lanes(np.repeat([0, 1, 2], [25, 30, 20]), ["x-2.tar", "x-0.tar", "x-1.tar"], 4, 10)
    other = epoch_order(key_hashes(moved), seed=1, epoch=2, batch=8, lanes=lanes)
    assert [keys[i] for i in one.batches.ravel()] == [moved[i] for i in other.batches.ravel()]


def test_every_sample_is_fed_over_epochs():
    hashes = key_hashes(f"k{i}" for i in range(47))
    for lanes in (None, layout([20, 27])):
        fed = set()
        for epoch in range(20):
            fed.update(epoch_order(hashes, seed=0, epoch=epoch, batch=10, lanes=lanes).batches.ravel().tolist())
        assert fed == set(range(47))


def test_lanes_read_each_lane_in_stretches():
    order = epoch_order(
        key_hashes(f"k{i}" for i in range(400)), seed=3, epoch=0, batch=4, lanes=layout([400], 4, block=10)
    )
    for lane in range(4):
        run = np.sort(order.batches[:, lane].reshape(-1, 10), axis=1)
        assert (np.diff(run, axis=1) % 400 == 1).sum() >= run.size - len(run) - 10


def test_defaults():
    assert [default_microbatch(b) for b in (1, 256, 512, 300, 257)] == [1, 256, 256, 150, 1]
    assert [default_lanes(b) for b in (1, 64, 96, 256, 127)] == [1, 64, 48, 64, 1]


def test_validation_covers_once_with_equal_batches():
    for samples, batch, ranks in ((10, 3, 4), (1, 8, 3), (64, 8, 2), (7, 7, 1)):
        parts = [validation_order(samples, batch, rank, ranks) for rank in range(ranks)]
        assert len({part[0].shape for part in parts}) == 1
        assert sorted(i for order, weight in parts for i in order[weight > 0].tolist()) == list(range(samples))


def test_sorted_shards_are_noticed():
    labels = np.repeat(np.arange(20), 50).astype(np.int64)
    hashes = key_hashes(f"k{i}" for i in range(1000))
    found, full = distinct_classes(labels, epoch_order(hashes, seed=0, epoch=0, batch=20))
    assert abs(found - full) < 1
    found, full = distinct_classes(
        labels, epoch_order(hashes, seed=0, epoch=0, batch=20, lanes=layout([1000], 2, block=20))
    )
    assert found < 0.8 * full


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"batch": 20}, "at most 10"),
        ({"batch": 10, "repeats": 3}, "divisor"),
        ({"batch": 10, "microbatch": 4}, "such as 2"),
        ({"batch": 10, "lanes": layout([10], 4)}, "such as 2"),
    ],
)
def test_sizes_refused(sizes, text):
    with pytest.raises(UserError, match=text):
        epoch_order(key_hashes(f"k{i}" for i in range(10)), seed=0, epoch=0, **sizes)
