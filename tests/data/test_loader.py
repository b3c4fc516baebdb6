"""Microbatches depend on the plan alone: not on threads, workers, or what was in a batch before."""

import os
import random
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nml_ray.config.errors import UserError
from nml_ray.data.augment import CropDraws, ResizedCropAugmentation, ShiftAugmentation, flips
from nml_ray.data.config import OrderSettings
from nml_ray.data.dataset import Dataset
from nml_ray.data.decode import UndecodableImage, decode_image
from nml_ray.data.loader import PREFETCH, Loader, LoaderPlan
from nml_ray.data.reader import ShardReader
from nml_ray.data.schedule import Schedule
from nml_ray.data.shards import Sample, write_shards
from nml_ray.data.transform import train_image
from tests.data.photographs import photographs

pytestmark = pytest.mark.long

BATCH, MICROBATCH, SIZE, SEED = 48, 24, 40, 11
BROKEN = (5, 17)


def write_photographs(directory, count=120, broken=()):
    photos = photographs(12)
    images = {number: photos[number % 12] for number in range(count)}
    images |= {number: images[number][:9000] for number in broken}
    samples = (Sample(key=f"photo-{number}", image=data, extension="jpg") for number, data in images.items())
    write_shards(samples, directory, samples_per_shard=50)
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"), broken=BROKEN)


@pytest.fixture
def dataset(directory):
    return Dataset.open(directory)


def loader_of(dataset, repeats=1, augmentation=None, **options):
    schedule = Schedule(dataset, OrderSettings(), SEED, BATCH, MICROBATCH, repeats=repeats)
    augmentation = augmentation or ResizedCropAugmentation(scale=(0.3, 1.0))
    return Loader(dataset, LoaderPlan(SEED, MICROBATCH, 3, SIZE, augmentation, schedule.batch), **options)


def fed(loader, start=0, stop=4):
    """Steps with images of their own: those of the loader are valid for one step only."""
    return [[replace(one, images=one.images.copy()) for one in step] for step in loader.steps(start, stop)]


def same(one, other):
    arrays = all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("places", "numbers", "images", "weights", "hashes")
    )
    return arrays and one.holes == other.holes


@pytest.mark.parametrize("augmentation", [None, ShiftAugmentation(pixels=2)])
def test_microbatches_are_the_same_for_any_number_of_threads_and_workers(dataset, augmentation):
    expected = fed(loader_of(dataset, 2, augmentation))
    assert any(one.holes for step in expected for one in step)
    for threads in (2, 5):
        again = fed(loader_of(dataset, 2, augmentation, threads=threads))
        assert all(same(*pair) for step in zip(expected, again, strict=True) for pair in zip(*step, strict=True))
    shares = [fed(loader_of(dataset, 2, augmentation, rank=rank, workers=2)) for rank in (0, 1)]
    for step, whole in enumerate(expected):
        assert [len(share[step]) for share in shares] == [1, 1]
        assert same(whole[0], shares[0][step][0])
        assert same(whole[1], shares[1][step][0])


def test_a_jump_to_a_step_equals_reading_up_to_it(dataset):
    whole, jumped = fed(loader_of(dataset)), fed(loader_of(dataset, threads=2), 3, 4)
    assert all(same(*pair) for pair in zip(whole[3], jumped[0], strict=True))


@pytest.mark.parametrize("repeats", [1, 3])
def test_every_place_holds_its_own_copy_of_its_sample(dataset, repeats):
    loader, reader = loader_of(dataset, repeats, threads=2), ShardReader(dataset)
    for step, microbatches in enumerate(fed(loader, 0, 3)):
        batch = loader.plan.schedule(step)
        for one in microbatches:
            holes = {hole.place for hole in one.holes}
            for row, place in enumerate(one.places.tolist()):
                number, copy = int(batch.numbers[place]), int(batch.copies[place])
                assert one.numbers[row] == number
                assert one.hashes[row] == dataset.key_hash[number]
                if place not in holes:
                    expected = by_hand(dataset, reader.read(number), number, batch.epoch, copy)
                    assert np.array_equal(one.images[row], expected)


def by_hand(dataset, data, number, epoch, copy):
    drawn = SEED, dataset.key_hash[[number]], epoch, copy
    draws = CropDraws(ResizedCropAugmentation(scale=(0.3, 1.0)), *drawn)
    return train_image(data, size=SIZE, box=lambda w, h: draws.box(0, w, h), mirror=bool(flips(*drawn)[0]))


def test_holes_hold_the_nearest_good_image_at_weight_zero(dataset):
    seen, reader = set(), ShardReader(dataset)
    for one in (one for step in fed(loader_of(dataset, threads=2)) for one in step):
        for hole in one.holes:
            row = hole.place - int(one.places[0])
            filler = one.numbers.tolist().index(hole.filler)
            assert abs(filler - row) == 1
            assert np.array_equal(one.images[row], one.images[filler])
            with pytest.raises(UndecodableImage) as verdict:  # as `data verify` asks
                decode_image(reader.read(hole.number), 3)
            assert hole.reason == str(verdict.value)
            seen.add(dataset.key(hole.number))
        assert one.weights.sum() == MICROBATCH - len(one.holes)
    assert seen == {f"photo-{number}" for number in BROKEN}


def test_a_microbatch_without_a_good_image_is_black(tmp_path):
    dataset = Dataset.open(write_photographs(tmp_path / "bad", BATCH, broken=range(BATCH)))
    for one in fed(loader_of(dataset), 0, 1)[0]:
        assert not one.images.any() and not one.weights.any()
        assert {hole.filler for hole in one.holes} == {-1}


def test_images_are_written_over_once_the_next_step_is_asked_for(dataset):
    steps = []
    images = []
    for microbatches in loader_of(dataset, threads=2).steps(0, PREFETCH + 3):
        steps.append(microbatches)
        images.append([one.images.copy() for one in microbatches])
    again = fed(loader_of(dataset), 0, PREFETCH + 3)
    ring = PREFETCH + 1
    for step, microbatches in enumerate(steps):
        for place, one in enumerate(microbatches):
            assert np.array_equal(images[step][place], again[step][place].images)
            for earlier in range(step):
                shared = np.shares_memory(one.images, steps[earlier][place].images)
                assert shared == ((step - earlier) % ring == 0)
            assert same(replace(one, images=images[step][place]), again[step][place])  # all but the images stay


def decoding():
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_threads_end_with_their_iterator(dataset):
    loader = loader_of(dataset, threads=3)
    fed(loader)
    assert not decoding()
    stream = loader.steps(0, 100)
    next(stream)
    assert decoding()
    stream.close()
    assert not decoding()
    stream = loader.steps(0, 100)
    next(stream)
    loader.close()
    assert not decoding()


def test_an_error_of_a_thread_is_raised_and_ends_the_others(tmp_path):
    dataset = Dataset.open(write_photographs(tmp_path / "gone"))
    (tmp_path / "gone" / "shard-000001.tar").unlink()
    with pytest.raises(UserError, match=r"shard-000001\.tar"):
        fed(loader_of(dataset, threads=3))
    assert not decoding()


SUSPENDED = """
import sys
from pathlib import Path
from nml_ray.data.augment import ResizedCropAugmentation
from nml_ray.data.config import OrderSettings
from nml_ray.data.dataset import Dataset
from nml_ray.data.loader import Loader, LoaderPlan
from nml_ray.data.schedule import Schedule
dataset = Dataset.open(Path(sys.argv[1]))
schedule = Schedule(dataset, OrderSettings(), 0, 64, 16)
plan = LoaderPlan(0, 16, 3, 64, ResizedCropAugmentation(), schedule.batch)
stream = Loader(dataset, plan, threads=2).steps(0, 1000)
next(stream)
raise KeyboardInterrupt
"""


def test_an_interpreter_with_a_suspended_iterator_ends(directory):
    command = [sys.executable, "-c", SUSPENDED, str(directory)]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=root)
    assert "KeyboardInterrupt" in ended.stderr and "Fatal" not in ended.stderr


def test_no_global_generator_is_touched(dataset):
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    fed(loader_of(dataset, threads=2))
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux tells them")
def test_decoding_threads_start_no_threads_of_their_own(dataset):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        schedule = Schedule(dataset, OrderSettings(), SEED, BATCH, MICROBATCH)
        plan = LoaderPlan(SEED, MICROBATCH, 3, 300, ResizedCropAugmentation(), schedule.batch)
        schedule.batch(0)  # the schedule's own thread
        before = len(os.listdir("/proc/self/task"))
        for _ in Loader(dataset, plan, threads=2).steps(0, 4):
            assert len(os.listdir("/proc/self/task")) <= before + 2
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(threads)


def test_timers_tell_what_the_time_went_into(dataset):
    loader = loader_of(dataset, threads=2)
    fed(loader)
    assert loader.timers.read > 0
    assert loader.timers.decode > 0
    assert loader.timers.wait > 0
    assert loader.timers.copy == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs CUDA")
def test_pinned_batches(dataset):
    for microbatches in loader_of(dataset, pinned=True).steps(0, 2):
        assert all(torch.from_numpy(one.images).is_pinned() for one in microbatches)
