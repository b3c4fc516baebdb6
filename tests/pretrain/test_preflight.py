"""Mistakes that would end a run in its first seconds are found before any worker is started."""

import pytest
import torch
from safetensors.torch import save_file

from nml_ray.config.errors import UserError
from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import build_encoder
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.preflight import misfit_of_shapes, refuse_model

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
        ({"name": "torchvision:vit_b_16", "size": 30}, "torchvision:vit_b_16 cannot be built for images of 30"),
    ],
)
def test_what_does_not_fit_is_refused(make_plan, encoder, words):
    with pytest.raises(UserError, match=words):
        refuse_model(make_plan(encoder=encoder))


BATCH_NORM = {"name": "timm:resnet18", "size": 12}


def test_batch_statistics_of_a_single_image_are_refused(make_plan):
    words = r"pretrain\.microbatch: timm:resnet18 cannot be trained on one image of 12 x 12 .*expected at least 2"
    with pytest.raises(UserError, match=words):
        refuse_model(make_plan(encoder=BATCH_NORM, microbatch=1))
    refuse_model(make_plan(encoder=BATCH_NORM, microbatch=2))
    refuse_model(make_plan(encoder={**SMALL, "size": 32}, microbatch=1))  # its last map is of several pixels
    with pytest.raises(UserError, match=r"pretrain\.microbatch"):
        refuse_model(make_plan(kind="caption_swap", objective="clip", encoder=BATCH_NORM, microbatch=1))


def test_what_only_training_refuses_is_refused(make_plan, monkeypatch):
    def forward(encoder, images):
        assert not encoder.training, "a second classifier needs larger images"
        return images

    monkeypatch.setattr("nml_ray.models.encoder.Encoder.forward", forward)
    with pytest.raises(
        UserError, match=r"pretrain\.encoder: small_resnet cannot be trained on images of 12 x 12 pixels"
    ):
        refuse_model(make_plan())


def test_the_global_generator_is_left_alone(make_plan):
    before = torch.get_rng_state()
    refuse_model(make_plan(encoder=SMALL))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"encoder": {"name": "timm:resnet18", "size": 32}, "microbatch": 1}, "microbatch"),
        ({"encoder": {"name": "timm:resnet18", "size": 32, "weights": "/nowhere.safetensors"}}, ""),
        ({"encoder": {"name": "timm:vit_tiny_patch16_224", "size": 30}}, "encoder"),
        ({"encoder": {"name": "timm:test_convnext", "size": 12}}, "encoder"),
        ({"encoder": {"name": "torchvision:vit_b_16", "size": 30}}, "encoder"),
        ({"encoder": {"name": "timm:vit_base_patch16_224", "size": 224}}, ""),
    ],
)
def test_shapes_are_looked_at_without_data_and_weights(settings, field):
    misfit = misfit_of_shapes(PretrainSettings.model_validate(settings))
    assert (misfit.field if misfit else "") == field


def test_weights_of_another_shape_are_refused(make_plan, tmp_path):
    with pytest.raises(UserError, match="tensors have another shape"):
        refuse_model(make_plan(encoder=weights(tmp_path / "w.safetensors", width=8)))
