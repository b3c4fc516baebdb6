"""The doctor's verdict on numbers made by hand."""

from dataclasses import replace
from typing import Any

import pytest

from nml_ray.study.doctor.examine import thread_counts
from nml_ray.study.doctor.verdict import Rates, Verdict, Work, at, hours_of, images_of, judge

WORK = Work(
    images=3_600_000,
    epochs=10,
    seeds=1,
    arms=3,
    arms_per_worker=3,
    microbatches=4,
    bytes=1e9,
    sweep=False,
    order="full",
)
RATES = Rates(  # 16 cores, 4 + 4 of them used by one worker
    cores=16,
    memory=1e11,
    workers=1,
    threads=4,
    decode_threads=4,
    read_random=50_000,
    read_sequence=100_000,
    read_warm=200_000,
    decode={1: 500, 2: 1000, 4: 2000, 8: 3600, 16: 6000},
    compute={4: 15_000, 16: 20_000},
    compute_arms=5_000,
)


def verdict(work: Work = WORK, **changed: Any) -> Verdict:
    return judge(replace(RATES, **changed), work)


def advised(found: Verdict) -> list[str]:
    return [one.change.split(" (")[0].split(":")[0] for one in found.advice]


def test_decoding_is_the_bottleneck_and_more_threads_are_the_first_advice() -> None:
    found = verdict()
    assert (found.bottleneck, found.images, found.hours) == ("decode", 2000, 0.5)
    assert "4 thread(s) decode 2,000 images/s; next is compute at 5,000" in found.reason
    assert advised(found)[0] == "run.decode_threads=13"  # with 12, between 8 and 16, it is 4,800: less than 5,000
    assert found.advice[0].images == pytest.approx(5000)
    assert found.advice[0].hours == pytest.approx(3_600_000 / 5000 / 3600)


def test_smaller_shards_are_advised_by_as_much_as_they_were_measured_to_help() -> None:
    found = verdict(smaller_side=256, smaller_faster=1.8, smaller_lighter=2.4, cores=8)
    (advice,) = [one for one in found.advice if one.change.startswith("smaller shards")]
    assert "--short-side 256 --quality 90" in advice.change and "1.8 x as fast" in advice.change
    assert advice.images == pytest.approx(3600)
    assert not any("smaller" in change for change in advised(verdict(smaller_side=256, smaller_faster=1.01)))


def test_computing_is_the_bottleneck() -> None:
    found = verdict(compute_arms=800, compute={4: 2400, 16: 6000})
    assert found.bottleneck == "compute" and found.images == 800
    assert {one.change.split(" (")[0].split(":")[0]: round(one.images) for one in found.advice} == {
        "threads=16": 1600,  # 2,000 if the cores had nothing to decode
        "run.workers=2": 1600,
        "run.arms=sweep": 2000,  # two runs at a time, of one arm each
    }
    assert found.advice[-1].change.startswith("run.arms=sweep") and found.advice[-1].hours == pytest.approx(1.0)
    assert not any("decode_threads" in one or "smaller" in one for one in advised(found))


def test_two_workers_at_most_as_many_as_microbatches() -> None:
    few = replace(WORK, microbatches=1)
    slow = {"compute_arms": 800, "compute": {4: 2400, 16: 2400}}
    assert "run.workers=2" in advised(verdict(**slow))
    assert "run.workers=2" not in advised(verdict(few, **slow))


def test_decoding_and_computing_share_too_few_cores() -> None:
    found = verdict(cores=4, compute_arms=2000, compute={4: 6000})
    assert found.bottleneck == "cores"
    assert found.images == pytest.approx(4 / (1 / 500 + 4 / 2000))  # 2 + 2 ms of a core for an image: 1000
    assert "2.00 ms of a core to decode and 2.00 ms to train on (3 arm(s)); 1 worker(s) share 4 cores" in found.reason


def test_a_data_set_that_fits_in_memory_is_read_from_the_disk_once() -> None:
    slow = {"read_random": 100.0, "read_sequence": 100.0}
    found = verdict(**slow)
    assert found.bottleneck == "decode"
    assert found.hours == pytest.approx((360_000 / 100 + 3_240_000 / 2000) / 3600)
    large = verdict(replace(WORK, bytes=2e11), **slow)
    assert (large.bottleneck, large.images) == ("read", 100)
    assert large.hours == pytest.approx(10)
    assert advised(large) == []


def test_lanes_and_another_disk_are_advised_where_the_disk_is_slow() -> None:
    large = replace(WORK, bytes=2e11)
    disk = {"read_random": 100.0, "read_sequence": 400.0, "other_disk": 4000.0, "other_disk_path": "/fast"}
    found = verdict(large, **disk)
    assert advised(found) == ["the data on the disk of /fast, which reads 10.0 x as fast", "pretrain.order=lanes"]
    assert [one.images for one in found.advice] == [1000, 400]
    assert verdict(replace(large, order="lanes"), **disk).images == 400


def test_the_copy_is_the_bottleneck() -> None:
    found = verdict(copy=300.0)
    assert found.bottleneck == "copy" and "the copy to the GPU takes 300 images/s" in found.reason


def test_arms_on_streams_of_their_own_are_brought_together() -> None:
    apart = replace(WORK, arms_per_worker=1)
    found = verdict(apart, compute_arms=15_000)
    assert (found.bottleneck, found.hours) == ("decode", 1.0)  # two runs side by side on 16 cores, then the third
    seeds = replace(apart, seeds=2)  # of `shared`, one after the other
    assert verdict(seeds, compute_arms=15_000).hours == pytest.approx(2.0)
    assert verdict(apart, compute_arms=15_000, cores=8).hours == pytest.approx(1.5)
    together = next(one for one in found.advice if one.change.startswith("all 3 arms"))
    assert together.hours == pytest.approx(0.5)


def test_a_sweep_runs_as_many_trials_as_the_reserved_cores_allow() -> None:
    sweep = replace(WORK, sweep=True, seeds=2, arms_per_worker=1)
    rates = replace(RATES, compute_arms=1000, compute={4: 1000})
    assert images_of(rates, sweep) == 1000
    assert hours_of(rates, sweep) == pytest.approx(3 * 1.0)  # 6 trials, 2 at a time on 16 cores


def test_a_larger_microbatch_is_advised_where_it_was_faster() -> None:
    slow = {"compute_arms": 800, "compute": {4: 2400}}
    assert "pretrain.microbatch=512" in advised(verdict(**slow, other_microbatch=(512, 1.3)))
    assert "pretrain.microbatch=512" not in advised(verdict(**slow, other_microbatch=(512, 1.0)))


def test_nothing_to_change_is_said_by_no_advice() -> None:
    assert verdict(cores=8, compute={4: 6000}, compute_arms=2000, decode={1: 500, 4: 2000}).advice == ()


@pytest.mark.parametrize(("threads", "rate"), [(1, 10), (2, 20), (3, 25), (4, 30), (9, 30)])
def test_between_measured_threads_rates_lie_on_a_line(threads: int, rate: float) -> None:
    assert at({1: 10, 2: 20, 4: 30}, threads) == rate


def test_thread_counts() -> None:
    assert thread_counts(1) == [1] and thread_counts(6) == [1, 2, 4, 6] and thread_counts(200)[-1] == 32


def test_on_gpus_the_cores_are_for_decoding_and_workers_are_as_many_as_gpus() -> None:
    on_cores = verdict(cores=4, compute={4: 2500}, compute_arms=2500)
    assert on_cores.bottleneck == "cores"
    found = verdict(cores=64, gpus=2, copy=1e5, compute={4: 1500}, compute_arms=1500)
    assert found.bottleneck == "compute"
    assert "steps of 3 arm(s) on a GPU take 1,500 images/s" in found.reason
    assert "cores" not in found.limits
    assert "run.workers=2" in advised(found)
    assert not [change for change in advised(verdict(cores=64, gpus=1, copy=1e5)) if change.startswith("run.workers")]
    assert not [change for change in advised(verdict(cores=64, gpus=1, copy=1e5)) if "sweep" in change]
