"""Mixing: its laws, its pixels, and that it depends on keys alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nml_ray.data.draw import draw, key_hashes
from nml_ray.data.order import worker_microbatches
from nml_ray.pretrain.mixing import Mixing, draw_mixing, mix, symmetric_beta
from nml_ray.pretrain.recipe_config import MixingSettings

BOTH = MixingSettings(mixup=0.2, cutmix=1.0)


def hashes(count: int) -> np.ndarray:
    return key_hashes(f"sample-{number}" for number in range(count))


def drawn(chosen: MixingSettings, keys: np.ndarray, holes: tuple[int, ...] = (), epoch: int = 0, side: int = 16):
    weights = np.ones(len(keys), np.float32)
    weights[list(holes)] = 0
    return draw_mixing(chosen, 3, keys, epoch, np.zeros(len(keys), np.int64), weights, side, side)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2, 0.8, 1.0, 4.0])
def test_shares_have_the_beta_law(alpha):
    keys = hashes(20_000)
    shares = symmetric_beta(np.full(len(keys), alpha), draw("a", 0, keys), draw("b", 0, keys))
    assert np.all((shares >= 0) & (shares <= 1))
    grid = np.linspace(0.001, 0.999, 999)  # nearer to the ends numbers round to 0 or 1
    found = np.searchsorted(np.sort(shares), grid) / len(shares)
    assert np.abs(found - stats.beta(alpha, alpha).cdf(grid)).max() < 1.63 / np.sqrt(len(keys))


def test_ends_of_the_uniform_numbers():
    ends = np.array([0, 2**64 - 1], np.uint64)
    with np.errstate(all="raise"):
        shares = symmetric_beta(np.array([0.01, 0.01]), ends, ends)
    assert np.isfinite(shares).all()


def test_mixup_blends_with_the_reversed_microbatch():
    images = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mixing = drawn(MixingSettings(mixup=0.8), hashes(6), side=4)
    assert not mixing.cut.any() and not mixing.boxes.any()
    shares = mixing.shares[:, None, None, None]
    torch.testing.assert_close(mix(images, mixing), images * shares + images.flip(0) * (1 - shares))


def test_cutmix_puts_in_the_partners_box_and_counts_its_pixels():
    images = torch.arange(40.0).reshape(40, 1, 1, 1).expand(40, 1, 16, 16).contiguous()
    mixing = drawn(MixingSettings(cutmix=1.0), hashes(40))
    mixed = mix(images, mixing)
    own = (mixed == images).float().mean(dim=(1, 2, 3))
    torch.testing.assert_close(own, mixing.shares)
    assert torch.all((mixed == images) | (mixed == images.flip(0)))
    for number, (top, bottom, left, right) in enumerate(mixing.boxes.tolist()):
        assert torch.all(mixed[number, :, top:bottom, left:right] == 39 - number)
    assert 0.4 < mixing.shares.mean() < 0.75  # boxes are cut off at the edges


def test_both_take_turns_and_some_samples_stay_alone():
    mixing = drawn(BOTH.model_copy(update={"probability": 0.8}), hashes(4000))
    assert abs(float(mixing.cut.float().mean()) - 0.4) < 0.03
    assert abs(float((mixing.shares == 1).float().mean()) - 0.2) < 0.1  # some draws round to a whole image
    assert not torch.equal(mixing.shares, drawn(BOTH, hashes(4000), epoch=1).shares)


def test_the_partner_of_a_hole_stays_unmixed():
    images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    mixing = drawn(BOTH, hashes(8), holes=(2,))
    assert mixing.shares[5] == 1
    assert torch.equal(mix(images, mixing)[5], images[5])
    others = [0, 1, 2, 3, 4, 6, 7]
    assert torch.equal(mixing.shares[others], drawn(BOTH, hashes(8)).shares[others])


@given(workers=st.integers(1, 6), rank=st.integers(0, 5))
@settings(deadline=None, max_examples=20)
def test_a_microbatch_is_mixed_alike_by_any_worker(workers, rank):
    keys = hashes(6 * 8).reshape(6, 8)
    images = torch.rand(6, 8, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def mixed(number: int) -> torch.Tensor:
        return mix(images[number], drawn(BOTH, keys[number]))

    alone = [mixed(number) for number in range(6)]
    for number in worker_microbatches(6, rank % workers, workers):
        assert torch.equal(mixed(number), alone[number])


def test_copies_of_a_sample_are_mixed_differently():
    keys = np.repeat(hashes(4), 3)
    mixing = draw_mixing(BOTH, 0, keys, 0, np.arange(12) % 3, np.ones(12, np.float32), 16, 16)
    assert len(set(mixing.shares.tolist())) > 6


def test_moves_to_a_device():
    mixing = drawn(BOTH, hashes(4)).to(torch.device("meta"))
    assert isinstance(mixing, Mixing) and mixing.shares.device.type == "meta"
