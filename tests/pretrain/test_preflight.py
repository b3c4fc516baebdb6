"""Mistakes that would end a run in its first seconds are found before any worker is started."""

import pytest
from safetensors.torch import save_file

from nml_ray.config.errors import UserError
from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import build_encoder
from nml_ray.pretrain.preflight import refuse_model

SMALL = {"width": 4, "channels": 1, "size": 12}


def weights(path, **settings):
    encoder = build_encoder(EncoderSettings.model_validate({**SMALL, **settings}))
    save_file({name: tensor.contiguous() for name, tensor in encoder.backbone.state_dict().items()}, path)
    return {**SMALL, "weights": str(path)}


def test_what_fits_passes(make_plan, tmp_path):
    refuse_model(make_plan(encoder=weights(tmp_path / "w.safetensors")))
    refuse_model(make_plan(kind="caption_swap", objective="clip", encoder=SMALL))


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ({"name": "timm:resnet19"}, "there is no encoder 'timm:resnet19'"),
        ({"name": "torchvision:resnet18", "channels": 1}, "torchvision:resnet18 with 1 channel"),
        ({**SMALL, "mean": [0.5, 0.5]}, "encoder.mean: 2 values; expected one a channel: 1"),
        ({"name": "timm:test_convnext", "size": 12}, "timm:test_convnext does not take images of 12 x 12 pixels"),
        ({**SMALL, "weights": "/nowhere.safetensors"}, "no such file"),
    ],
)
def test_what_does_not_fit_is_refused(make_plan, encoder, words):
    with pytest.raises(UserError, match=words):
        refuse_model(make_plan(encoder=encoder))


def test_weights_of_another_shape_are_refused(make_plan, tmp_path):
    with pytest.raises(UserError, match="tensors have another shape"):
        refuse_model(make_plan(encoder=weights(tmp_path / "w.safetensors", width=8)))
