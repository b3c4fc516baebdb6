"""RandAugment against timm's, operation by operation, and its draws."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment

from nml_ray.data.draw import key_hashes
from nml_ray.pretrain.randaugment import GEOMETRIC, OPERATIONS, Round, draw_rounds, rand_augment
from nml_ray.pretrain.recipe_config import RandAugmentSettings

TIMM = dict(
    zip(
        OPERATIONS,
        [
            *("AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing", "SolarizeIncreasing"),
            *("SolarizeAdd", "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"),
            *("ShearX", "ShearY", "TranslateXRel", "TranslateYRel"),
        ],
        strict=True,
    )
)
FILL = (124, 116, 104)


def photographs(count: int, channels: int = 3, height: int = 24, width: int = 32) -> np.ndarray:
    """Smooth images of different contrast, uint8 [N, H, W, C]."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (count, 4, 5, channels)).astype(np.uint8)
    resized = [np.stack([_resized(image[..., c], width, height) for c in range(channels)], axis=-1) for image in coarse]
    return (np.stack(resized) * generator.uniform(0.3, 1, (count, 1, 1, 1))).astype(np.uint8)


def _resized(plane: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))


def tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def ours(images: np.ndarray, name: str, amounts: np.ndarray) -> np.ndarray:
    rounds = [Round(np.full(len(images), OPERATIONS.index(name)), amounts)]
    fill = torch.tensor(FILL[: images.shape[3]], dtype=torch.uint8)
    return rand_augment(tensor(images), rounds, fill).permute(0, 2, 3, 1).numpy()


def timms(image: np.ndarray, name: str, amount: float, monkeypatch) -> np.ndarray:
    monkeypatch.setattr(auto_augment.random, "random", lambda: 1.0 if amount < 0 else 0.0)
    options = {"img_mean": FILL, "interpolation": Image.Resampling.BILINEAR}
    operation = auto_augment.AugmentOp(TIMM[name], prob=1.0, magnitude=abs(amount) * 10, hparams=options)
    return np.asarray(operation(Image.fromarray(image)))


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_timms(name, monkeypatch):
    images = photographs(8)
    images[7] = 90  # nothing to stretch or to equalise
    amounts = np.array([0.0, 0.13, -0.3, 0.7, -0.7, 0.95, 0.99, -0.99])
    found = ours(images, name, amounts)
    for image, amount, own in zip(images, amounts, found, strict=True):
        expected = timms(image, name, amount, monkeypatch)
        difference = np.abs(own.astype(int) - expected)
        if name in GEOMETRIC:
            assert (difference.max(axis=2) > 1).mean() < 0.01  # pixels whose centre falls on the edge
        else:
            assert difference.max() == 0


@pytest.mark.parametrize("name", OPERATIONS)
def test_grey_images_keep_their_channel(name):
    grey = photographs(4, channels=1)
    assert ours(grey, name, np.full(4, 0.7)).shape == grey.shape


def test_a_sample_is_augmented_alike_in_any_company():
    keys = key_hashes(f"sample-{number}" for number in range(40))
    images, copies, fill = photographs(40), np.zeros(40, np.int64), torch.tensor(FILL, dtype=torch.uint8)
    settings = RandAugmentSettings(operations=3, probability=1.0)

    def augmented(rows: slice) -> torch.Tensor:
        rounds = draw_rounds(settings, 5, keys[rows], 2, copies[rows])
        return rand_augment(tensor(images[rows]), rounds, fill)

    whole = augmented(slice(None))
    parts = torch.cat([augmented(slice(first, first + 8)) for first in range(0, 40, 8)])
    assert torch.equal(whole, parts)
    assert (whole != tensor(images)).flatten(1).any(1).float().mean() > 0.8


def test_the_given_images_are_left_alone():
    images = photographs(4)
    before = images.copy()
    ours(images, "invert", np.ones(4))
    assert np.array_equal(images, before)


def test_draws_have_their_law():
    count = 30_000
    keys = key_hashes(str(number) for number in range(count))
    first, second = draw_rounds(RandAugmentSettings(magnitude=7, deviation=0.5), 1, keys, 0, np.zeros(count, np.int64))
    assert abs((first.operations < 0).mean() - 0.5) < 0.02
    shares = np.bincount(first.operations[first.operations >= 0], minlength=15) / count
    assert np.abs(shares - 1 / 30).max() < 0.005
    strength = np.abs(first.amounts) * 10
    assert abs(strength.mean() - 7) < 0.02 and abs(strength.std() - 0.5) < 0.02
    assert abs(np.sign(first.amounts).mean()) < 0.02
    assert (first.operations == second.operations).mean() < 0.4


def test_copies_and_epochs_differ():
    keys = np.repeat(key_hashes(["a"]), 50)
    settings = RandAugmentSettings()
    (copied, _), (epoch, _) = (draw_rounds(settings, 0, keys, e, np.arange(50)) for e in range(2))
    assert len(set(copied.amounts.tolist())) == 50
    assert not np.array_equal(copied.amounts, epoch.amounts)
