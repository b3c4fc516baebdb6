"""Batches by step: whole runs, jumps, repeats, the next epoch made ahead."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nml_ray.config.errors import UserError
from nml_ray.data import schedule as module
from nml_ray.data.config import OrderSettings
from nml_ray.data.draw import key_hashes
from nml_ray.data.order import worker_microbatches
from nml_ray.data.schedule import Schedule


class Data:
    """What a schedule reads of a data set: `sizes` samples in each shard, those at `bad` excluded."""

    def __init__(self, sizes, bad=()):
        self.key_hash = key_hashes(f"k{i}" for i in range(sum(sizes)))
        self.shard_number = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        self.shard_names = tuple(f"x-{i}.tar" for i in range(len(sizes)))
        self.good = np.setdiff1d(np.arange(sum(sizes)), bad)

    def __len__(self):
        return len(self.key_hash)


@st.composite
def runs(draw_from):
    """(data, keyword arguments of Schedule): uneven shards, full or lanes, excluded samples, repeats."""
    per_copy, repeats = draw_from(st.integers(1, 8)), draw_from(st.integers(1, 3))
    batch = per_copy * repeats
    sizes = draw_from(st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(lambda s: sum(s) > batch))
    bad = draw_from(st.sets(st.integers(0, sum(sizes) - 1), max_size=sum(sizes) - batch))
    order = OrderSettings()
    if draw_from(st.booleans()):
        lanes = draw_from(st.sampled_from([None, *(d for d in range(1, per_copy + 1) if per_copy % d == 0)]))
        order = OrderSettings(kind="lanes", lanes=lanes, shuffle_block=draw_from(st.integers(1, 20)))
    microbatch = draw_from(st.sampled_from([d for d in range(1, batch + 1) if batch % d == 0]))
    arguments = {"settings": order, "seed": draw_from(st.integers(0, 2**64 - 1)), "batch": batch}
    return Data(sizes, sorted(bad)), {**arguments, "microbatch": microbatch, "repeats": repeats}


def same(one, other):
    return one.epoch == other.epoch and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("numbers", "copies")
    )


@settings(max_examples=60)
@given(runs(), st.lists(st.integers(0, 60), min_size=1, max_size=5))
def test_a_jump_to_any_step_equals_replaying_to_it(run, steps):
    data, arguments = run
    replayed = Schedule(data, **arguments)
    batches = [replayed.batch(step) for step in range(max(steps) + 1)]
    jumping = Schedule(data, **arguments)
    assert all(same(jumping.batch(step), batches[step]) for step in steps)
    assert same(Schedule(data, **arguments).batch(steps[0]), batches[steps[0]])


@settings(max_examples=60)
@given(runs(), st.integers(1, 9))
def test_every_number_of_workers_feeds_the_same_microbatches_and_equally_often(run, workers):
    data, arguments = run
    schedule = Schedule(data, **arguments)
    size, count = schedule.microbatch, arguments["batch"] // schedule.microbatch
    for step in range(min(schedule.steps_per_epoch + 1, 6)):
        numbers = schedule.batch(step).numbers.reshape(count, size)
        shares = [worker_microbatches(count, worker, workers) for worker in range(workers)]
        fed = {m: numbers[m].tolist() for share in shares for m in share}
        assert [fed[m] for m in sorted(fed)] == numbers.tolist()
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@settings(max_examples=60)
@given(runs())
def test_uneven_shards_never_give_ranks_different_numbers_of_batches(run):
    data, arguments = run
    schedule = Schedule(data, **arguments)
    assert schedule.steps_per_epoch == len(data.good) // arguments["batch"]
    for step in range(schedule.steps_per_epoch):  # a step is a step of all ranks, whatever shard its samples are in
        assert len(schedule.batch(step).numbers) == arguments["batch"]


@settings(max_examples=30)
@given(runs())
def test_each_epoch_feeds_good_samples_as_often_as_they_repeat_and_over_many_all_of_them(run):
    data, arguments = run
    schedule, fed = Schedule(data, **arguments), set()
    for epoch in range(400):
        planned = schedule.planned(epoch)
        assert len(set(planned.tolist())) == len(planned) == len(data.good) - schedule.dropped_per_epoch
        fed |= set(planned.tolist())
        if len(fed) == len(data.good):
            break
    assert fed == set(data.good.tolist())
    steps = schedule.steps_per_epoch
    numbers = np.concatenate([schedule.batch(epoch * steps + k).numbers for k in range(steps)])
    assert np.array_equal(numbers, np.repeat(planned, arguments["repeats"]))


def test_copies_are_numbered_in_their_batch():
    batch = Schedule(Data([20]), OrderSettings(), 0, 6, None, repeats=3).batch(4)
    assert batch.copies.tolist() == [0, 1, 2, 0, 1, 2]
    assert batch.numbers[:3].tolist() == [batch.numbers[0]] * 3


def test_sizes_that_do_not_fit_are_refused_before_an_order_is_made():
    for text, change in (("fewer than one batch", {"batch": 30}), ("repeats 4", {"repeats": 4})):
        with pytest.raises(UserError, match=text):
            Schedule(Data([20]), **{"settings": OrderSettings(), "seed": 0, "batch": 6, "microbatch": None, **change})


OWN = 987_654_321  # the seed of schedules that are watched: threads of earlier tests may still be making others


@pytest.fixture
def made(monkeypatch):
    """Which epochs were made, and in which thread."""
    epochs, real = [], module.epoch_order

    def watched(*arguments, **named):
        if named["seed"] == OWN:
            epochs.append((named["epoch"], threading.current_thread() is threading.main_thread()))
        return real(*arguments, **named)

    monkeypatch.setattr(module, "epoch_order", watched)
    return epochs


def finished(schedule):
    """Wait until the thread has made what it was asked for."""
    schedule._maker.submit(lambda: None).result()


def test_the_next_epoch_is_made_in_the_background_and_two_are_held(made):
    schedule = Schedule(Data([20]), OrderSettings(), OWN, 6, None)
    assert made == []
    for step in range(9):
        schedule.batch(step)
        finished(schedule)
    assert made == [(0, True), (1, False), (2, False), (3, False)]
    assert sorted(schedule._orders) == [2, 3]


def test_a_jump_makes_its_own_epoch_first_and_none_beyond_the_end(made):
    schedule = Schedule(Data([20]), OrderSettings(), OWN, 6, None, epochs=101)
    schedule.batch(3 * 100 + 1)
    finished(schedule)
    assert made == [(100, True)]
    schedule.batch(3 * 50)
    finished(schedule)
    assert made == [(100, True), (50, True), (51, False)] and sorted(schedule._orders) == [50, 51]


def test_an_error_in_the_background_surfaces_where_its_epoch_is_asked_for(monkeypatch):
    real = module.epoch_order

    def failing(*arguments, **named):
        if named["epoch"] == 1:
            raise MemoryError("no room for the order")
        return real(*arguments, **named)

    monkeypatch.setattr(module, "epoch_order", failing)
    schedule = Schedule(Data([20]), OrderSettings(), OWN, 6, None)
    schedule.batch(2)
    with pytest.raises(MemoryError, match="no room"):
        schedule.batch(3)


def test_an_order_that_could_not_be_made_is_made_again_when_it_is_asked_for_again(monkeypatch):
    real, failures = module.epoch_order, [MemoryError("no room for the order")]

    def failing(*arguments, **named):
        if failures and threading.current_thread() is threading.main_thread():  # no other test's thread
            raise failures.pop()
        return real(*arguments, **named)

    monkeypatch.setattr(module, "epoch_order", failing)
    schedule = Schedule(Data([20]), OrderSettings(), OWN, 6, None)
    with pytest.raises(MemoryError, match="no room"):
        schedule.batch(0)
    assert len(schedule.batch(0).numbers) == 6


@pytest.mark.parametrize("bad", [(), (3,)])
def test_numbers_are_64_bit_also_where_samples_are_excluded(bad):
    data = Data([20], bad)
    data.good = data.good.astype(np.int32)
    batch = Schedule(data, OrderSettings(), 0, 6, None).batch(0)
    assert batch.numbers.dtype == np.int64 == batch.copies.dtype
