import numpy as np
import pytest
import torch
from PIL import Image

from nml_ray.models.preprocess import InputSpec, fit_image, normalised, resized_to


def spec(**changes) -> InputSpec:
    options = {"channels": 3, "size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3, "resize": 32, **changes}
    return InputSpec(**options)


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, 3)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def test_an_image_of_the_right_size_keeps_its_pixels():
    image = picture(32, 32)
    assert np.array_equal(fit_image(image, spec()), np.asarray(image))


@pytest.mark.parametrize(("width", "height"), [(31, 90), (90, 31), (32, 33), (224, 224), (1, 1), (5, 500)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_shape_becomes_the_spec(width, height, channels):
    pixels = fit_image(picture(width, height), spec(channels=channels))
    assert pixels.shape == (32, 32, channels)
    assert pixels.dtype == np.uint8


def test_grey_to_rgb_repeats_the_channel_and_back_is_exact():
    grey = picture(32, 32, "L")
    rgb = fit_image(grey, spec())
    assert np.array_equal(rgb, np.repeat(np.asarray(grey)[:, :, None], 3, axis=2))
    assert np.array_equal(fit_image(Image.fromarray(rgb), spec(channels=1))[:, :, 0], np.asarray(grey))


def test_resizing_equals_torchvisions_pil_chain():
    from torchvision.transforms import v2

    chain = v2.Compose([v2.Resize(40, v2.InterpolationMode.BICUBIC), v2.CenterCrop(32)])
    for width, height in [(61, 47), (47, 61), (100, 100)]:
        image = picture(width, height)
        assert np.array_equal(fit_image(image, spec(resize=40)), np.asarray(chain(image)))


def test_squash_forgets_the_aspect():
    assert resized_to(100, 50, (32, 32)) == (32, 32)
    assert resized_to(100, 50, 32) == (64, 32)


def test_normalised_is_the_formula_in_channels_last_memory():
    images = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    described = spec(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    batch = normalised(images, described)
    expected = (images / 255 - np.array(described.mean)) / np.array(described.std)
    np.testing.assert_allclose(batch.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)
    assert batch.is_contiguous(memory_format=torch.channels_last)
