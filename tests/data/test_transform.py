"""What an encoder is trained on is what PIL would give it, within bounds of the faithful default."""

import io
import os
from functools import partial
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image

from nml_ray.data.augment import CropDraws, ResizedCropAugmentation, flips
from nml_ray.data.draw import key_hashes
from nml_ray.data.resample import by_pil, by_torch, resample
from nml_ray.data.transform import train_image
from tests.data.photographs import photographs

RNG = np.random.default_rng(0)


def by_reference(data, box, size):
    """The chain of torchvision, timm and open_clip: full decode, crop, bicubic resize."""
    crop = Image.open(io.BytesIO(data)).convert("RGB").crop(box)
    return np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.8, 1.0)])
def test_photographs_are_faithful_to_the_pil_chain(scale):
    photos = photographs(60)
    draws = CropDraws(ResizedCropAugmentation(scale=scale), 1, key_hashes(map(str, range(60))), 0)
    decibels, differences = [], []
    for row, data in enumerate(photos):
        ours = train_image(data, size=224, box=partial(draws.box, row))
        difference = ours.astype(float) - by_reference(data, draws.box(row, 500, 375), 224)
        decibels.append(10 * np.log10(255**2 / np.mean(difference**2)))
        differences.append(difference.mean())
    assert np.median(decibels) >= 60
    assert np.quantile(decibels, 0.05) >= 53
    assert abs(np.mean(differences)) < 0.05


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_encoders_size_is_not_touched(channels):
    pixels = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert np.array_equal(train_image(buffer.getvalue(), size=32, channels=channels).squeeze(), np.asarray(image))


def test_a_box_of_the_encoders_size_is_only_cut_out():
    pixels = RNG.integers(0, 256, (50, 60, 3), dtype=np.uint8)
    assert np.array_equal(resample(pixels, (7, 3, 39, 35), 32), pixels[3:35, 7:39])


def test_mirroring_exchanges_left_and_right():
    plain, mirrored = (train_image(photographs(1)[0], size=64, mirror=mirror) for mirror in (False, True))
    assert np.array_equal(mirrored, plain[:, ::-1])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 900), (900, 1), (3, 5), (40, 40), (60, 45), (60, 47), (300, 2000), (2500, 31)]
)
def test_any_shape_is_resized_as_by_pil(height, width, channels):
    noise = RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)
    difference = by_torch(noise, 32).astype(int) - by_pil(noise, 32)
    assert difference.shape == (32, 32, channels)
    assert np.abs(difference).max() <= 2  # on white noise: weights of 16 bits against 22, and the same order of passes
    assert abs(difference.mean()) < 0.5


def test_strided_and_read_only_pixels_give_the_same_bits():
    pixels = RNG.integers(0, 256, (80, 90, 3), dtype=np.uint8)
    turned = np.ascontiguousarray(pixels[::-1].transpose(1, 0, 2))
    turned.flags.writeable = False
    strided = pixels[::-1].transpose(1, 0, 2)
    assert np.array_equal(resample(strided, (5, 7, 71, 88), 24), resample(turned, (5, 7, 71, 88), 24))


def test_the_thread_settings_are_left_alone_and_give_the_same_bits():
    pixels = RNG.integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(resample(pixels, (0, 0, 1400, 1500), 512))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*results)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux tells them")
@pytest.mark.parametrize(("height", "width"), [(360, 300), (300, 360), (900, 250), (900, 310), (250, 900), (200, 200)])
def test_no_shape_makes_torch_start_threads(height, width):
    pixels = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = torch.get_num_threads()
    started: list[int] = []

    def work():
        running = len(os.listdir("/proc/self/task"))
        resample(pixels, (0, 0, width, height), 300)
        started.append(len(os.listdir("/proc/self/task")) - running)

    try:
        torch.set_num_threads(4)
        thread = Thread(target=work)
        thread.start()
        thread.join()
    finally:
        torch.set_num_threads(before)
    assert started == [0]


def test_flips_and_boxes_depend_on_the_copy():
    hashes, copies = key_hashes(["one"] * 64), np.arange(64)
    draws = CropDraws(ResizedCropAugmentation(), 1, hashes, 0, copies)
    assert len({draws.box(row, 500, 375) for row in range(64)}) > 60
    assert 15 < flips(1, hashes, 0, copies).sum() < 49
