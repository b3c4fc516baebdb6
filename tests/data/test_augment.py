"""Augmentation depends on (seed, key, epoch, repeat) alone, and draws what it says."""

import math

import numpy as np
import pytest

from nml_ray.data.augment import CropDraws, ResizedCropAugmentation, ShiftAugmentation, central_box, flips, shift
from nml_ray.data.draw import draw_one, key_hashes

KEYS = [f"sample-{number}" for number in range(500)]
HASHES = key_hashes(KEYS)


def test_shift_does_not_depend_on_neighbours():
    images = np.random.default_rng(0).integers(0, 256, (500, 9, 9, 1), dtype=np.uint8)
    whole = shift(images, ShiftAugmentation(pixels=2), 7, HASHES, 3)
    part = shift(images[100:150], ShiftAugmentation(pixels=2), 7, HASHES[100:150], 3)
    assert np.array_equal(whole[100:150], part)


def test_shift_moves_by_at_most_its_reach_and_fills():
    images = np.zeros((500, 9, 9, 1), np.uint8)
    images[:, 4, 4] = 200
    moved = shift(images, ShiftAugmentation(pixels=2, fill=77), 7, HASHES, 0)
    places = {tuple(np.argwhere(image[:, :, 0] == 200)[0]) for image in moved}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}
    assert set(np.unique(moved)) == {0, 77, 200}


def test_flips_are_half_and_change_with_the_epoch():
    first, second = flips(1, HASHES, 0), flips(1, HASHES, 1)
    assert 200 < first.sum() < 300
    assert (first != second).any()
    assert np.array_equal(first, flips(1, HASHES, 0))


@pytest.mark.parametrize(("width", "height"), [(500, 375), (32, 32), (3, 400), (1, 1)])
def test_crop_boxes_lie_inside(width, height):
    draws = CropDraws(ResizedCropAugmentation(), 5, HASHES[:100], 2)
    for row in range(100):
        left, top, right, bottom = draws.box(row, width, height)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


def test_crop_areas_follow_the_scale():
    draws = CropDraws(ResizedCropAugmentation(scale=(0.25, 0.75), aspect=(1.0, 1.0)), 5, HASHES, 2)
    boxes = [draws.box(row, 1000, 1000) for row in range(500)]
    areas = np.array([(box[2] - box[0]) * (box[3] - box[1]) / 1e6 for box in boxes])
    assert 0.249 < areas.min() < areas.max() < 0.751
    assert abs(areas.mean() - 0.5) < 0.02


def box_by_hand(key, width, height, repeat):
    """The formula for one sample with scale (0.5, 1) and the default aspect: every draw made on its own."""
    for k in range(10):
        area, aspect, across, down = (
            (draw_one(tag, 5, key, 2, repeat, k) >> 11) * 2.0**-53
            for tag in ("crop-area", "crop-aspect", "crop-across", "crop-down")
        )
        pixels = width * height * (0.5 + 0.5 * area)
        ratio = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * aspect)
        box_width, box_height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            left, top = int(across * (width - box_width + 1)), int(down * (height - box_height + 1))
            return left, top, left + box_width, top + box_height
    return central_box(width, height, (3 / 4, 4 / 3))


def test_boxes_drawn_together_are_those_drawn_one_by_one():
    repeats = np.arange(200) % 3
    draws = CropDraws(ResizedCropAugmentation(scale=(0.5, 1.0)), 5, HASHES[:200], 2, repeats)
    sizes = [(500, 375), (500, 280), (90, 400)]  # the narrower, the more tries
    for row in reversed(range(200)):
        width, height = sizes[row % 3]
        assert draws.box(row, width, height) == box_by_hand(KEYS[row], width, height, int(repeats[row]))
