"""The size of a model by arithmetic is the one that torch counts."""

import json
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nml_ray.models.clip import build_pair
from nml_ray.models.config import EncoderSettings
from nml_ray.models.small_resnet import build_small_resnet
from nml_ray.models.small_size import small_resnet_size
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.estimate import estimate_of, estimate_of_encoder


@pytest.mark.parametrize(("width", "channels", "side"), [(24, 3, 32), (8, 1, 28), (6, 3, 33), (16, 3, 225)])
def test_the_small_resnet(width: int, channels: int, side: int) -> None:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = build_small_resnet(width, channels).eval()
        model(torch.zeros(1, channels, side, side))
    parameters = sum(one.numel() for one in model.parameters())
    assert small_resnet_size(width, channels, side) == (parameters, counter.get_total_flops())


def test_a_pair_counts_its_text_tower() -> None:
    clip = {"objective": "clip", "clip": {"text": {"dim": 32, "buckets": 50}}}
    settings = PretrainSettings.model_validate({**clip, "encoder": {"width": 8, "size": 32}})
    pair = build_pair(settings.encoder, settings.contrastive.text, 0)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        pair.image_features(torch.zeros(1, 3, 32, 32))
        pair.text_features(torch.zeros(1, 96, dtype=torch.int64))
    found = estimate_of(settings)
    assert found and found.parameters == sum(one.numel() for one in pair.parameters())
    assert found.forward_flops == counter.get_total_flops()


@pytest.mark.long
def test_towers_of_a_library() -> None:
    name = "open_clip:ViT-B-32"
    settings = PretrainSettings.model_validate({"objective": "clip", "encoder": {"name": name}})
    pair, image = estimate_of(settings), estimate_of_encoder(settings.encoder)
    assert pair and image and pair.parameters == pytest.approx(151.3e6, rel=0.001)  # Radford et al. 2021
    assert image.forward_flops < pair.forward_flops == pytest.approx(2 * 7.4e9, rel=0.05)


def test_files_of_their_own_tell_nothing_beforehand() -> None:
    assert estimate_of_encoder(EncoderSettings(name="checkpoint", weights="runs/pretrain/x")) is None


def test_our_own_encoder_needs_no_torch() -> None:
    code = (
        "import json, sys\nfrom nml_ray.pretrain.config import PretrainSettings\n"
        "from nml_ray.pretrain.estimate import estimate_of\n"
        "sizes = [estimate_of(PretrainSettings(objective=name)).parameters for name in ('supervised', 'clip')]\n"
        "print(json.dumps([*sizes, 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    supervised, clip, loaded = json.loads(done.stdout)
    assert supervised < clip and not loaded
