"""Augmentation depends on (seed, key, epoch, repeat) alone, and draws what it says."""

import numpy as np
import pytest
from PIL import Image

from nml_ray.data.augment import ResizedCropAugmentation, ShiftAugmentation, crop_box, flips, resized, shift
from nml_ray.data.draw import key_hashes

HASHES = key_hashes([f"sample-{number}" for number in range(500)])


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
    augmentation = ResizedCropAugmentation()
    for key_hash in HASHES[:100]:
        left, top, right, bottom = crop_box(width, height, augmentation, 5, key_hash, 2)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


def test_crop_areas_follow_the_scale():
    augmentation = ResizedCropAugmentation(scale=(0.25, 0.75), aspect=(1.0, 1.0))
    boxes = [crop_box(1000, 1000, augmentation, 5, key_hash, 2) for key_hash in HASHES]
    areas = np.array([(box[2] - box[0]) * (box[3] - box[1]) / 1e6 for box in boxes])
    assert 0.249 < areas.min() < areas.max() < 0.751
    assert abs(areas.mean() - 0.5) < 0.02


def test_resized_leaves_a_fitting_image_alone():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8))
    assert np.array_equal(resized(image, (0, 0, 32, 32), 32)[:, :, 0], np.asarray(image))
    assert resized(image.convert("RGB"), (4, 4, 20, 20), 32).shape == (32, 32, 3)
