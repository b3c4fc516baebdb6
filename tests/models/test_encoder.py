import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from nml_ray.config.errors import UserError
from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import build_encoder, load_encoder, seeded, write_encoder
from nml_ray.models.pretrained import read_tensors

SMALL = EncoderSettings(name="small_resnet", width=4, channels=1, size=32)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


def test_small_resnet_by_name_is_a_function_of_its_seed():
    before = torch.get_rng_state()
    encoder = build_encoder(SMALL, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert encoder(torch.zeros(2, 1, 32, 32)).shape == (2, encoder.dim) == (2, 32)
    assert same(encoder, build_encoder(SMALL, seed=3))
    assert not same(encoder, build_encoder(SMALL, seed=2**64 - 1))
    assert not encoder.training


def test_seeded_restores_the_global_generator():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with seeded(9):
        torch.rand(10)
    assert torch.equal(torch.rand(1), expected)


def test_what_pretraining_leaves_is_loaded_again(tmp_path):
    encoder = build_encoder(SMALL.model_copy(update={"mean": (0.3,), "std": (0.2,)}), seed=1)
    write_encoder(tmp_path, encoder, SMALL)
    again = load_encoder(tmp_path)
    assert same(encoder, again)
    assert again.input == encoder.input
    assert again.input.mean == (0.3,)


def test_weights_named_as_the_whole_encoder_load_too(tmp_path):
    encoder = build_encoder(SMALL, seed=1)
    save_file(
        {f"module.{name}": tensor.contiguous() for name, tensor in encoder.state_dict().items()},
        tmp_path / "w.safetensors",
    )
    assert same(encoder, build_encoder(SMALL.model_copy(update={"weights": str(tmp_path / "w.safetensors")})))


@pytest.mark.long
@pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("inception_v3", 80), ("mnasnet0_5", 32)])
def test_torchvision_models_of_their_own_kind_train_and_come_back(tmp_path, name, size):
    """Two have second classifiers, one asks for the version of its weights."""
    settings = EncoderSettings(name=f"torchvision:{name}", size=size)
    encoder, images = build_encoder(settings), torch.rand(2, 3, size, size)
    assert encoder.train()(images).shape == (2, encoder.dim)
    write_encoder(tmp_path, encoder, settings)
    with torch.no_grad():
        assert torch.equal(load_encoder(tmp_path).eval()(images), encoder.eval()(images))


def test_torchvision_without_head_takes_a_checkpoint_with_head(tmp_path):
    import torchvision

    with seeded(4):
        whole = torchvision.models.resnet18(weights=None).eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in whole.state_dict().items()}}, tmp_path / "w.pth")
    settings = EncoderSettings(name="torchvision:resnet18", size=64, weights=str(tmp_path / "w.pth"))
    encoder = build_encoder(settings)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(whole.fc(encoder(images)), whole(images), rtol=1e-4, atol=1e-4)
    assert encoder.dim == 512
    assert encoder.input.mean == (0.485, 0.456, 0.406)
    assert encoder.input.interpolation == "bilinear"
    assert encoder.input.resize == 73


@pytest.mark.parametrize(
    ("name", "dim"), [("mobilenet_v3_small", 1024), ("squeezenet1_1", 512), ("vit_b_16", 768), ("densenet121", 1024)]
)
def test_torchvision_heads_of_every_shape(name, dim):
    encoder = build_encoder(EncoderSettings(name=f"torchvision:{name}", size=64))
    with torch.no_grad():
        assert encoder(torch.zeros(1, 3, 64, 64)).shape == (1, encoder.dim) == (1, dim)


def test_timm_uses_timms_own_data_config(tmp_path):
    import timm
    from timm.data import resolve_model_data_config

    model = timm.create_model("mobilenetv3_small_050", pretrained=False)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    settings = EncoderSettings(name="timm:mobilenetv3_small_050", size=64, weights=str(tmp_path / "w.pth"))
    encoder = build_encoder(settings)
    config = resolve_model_data_config(model)
    assert encoder.input.mean == config["mean"]
    assert encoder.input.resize == int(64 / config["crop_pct"])
    with torch.no_grad():
        assert encoder(torch.zeros(1, 3, 64, 64)).shape == (1, encoder.dim) == (1, 1024)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "torchvision:resnet5"}, ["there is no encoder", "did you mean 'torchvision:resnet50'"]),
        ({"name": "timn:resnet18"}, ["did you mean 'timm:resnet18'"]),
        ({"name": "small_resnt"}, ["did you mean 'small_resnet'"]),
        ({"name": "timm:resnet18.a1_in2k"}, ["did you mean 'timm:resnet18.a1_in1k'"]),
        ({"name": "torchvision:resnet18", "channels": 1}, ["encoder.channels", "expected 3"]),
        ({"name": "timm:deit_tiny_patch16_224", "size": 32}, ["encoder.size", "expected 224"]),
        ({"mean": (0.1, 0.2)}, ["encoder.mean", "2 values", "expected one a channel: 3"]),
        ({"weights": "absent.pth"}, ["absent.pth", "no such file"]),
    ],
)
def test_mistakes_are_named(changes, words):
    with pytest.raises(UserError) as caught:
        build_encoder(EncoderSettings(**{"size": 64, **changes}))
    assert all(word in str(caught.value) for word in words), caught.value


def test_weights_of_another_shape_name_the_tensors(tmp_path):
    wide = build_encoder(SMALL.model_copy(update={"width": 8}))
    tensors = {name: tensor.contiguous() for name, tensor in wide.backbone.state_dict().items()}
    del tensors["stem.weight"]
    save_file({**tensors, "odd": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError) as caught:
        build_encoder(SMALL.model_copy(update={"weights": str(tmp_path / "w.safetensors")}))
    text = str(caught.value)
    assert "w.safetensors" in text
    assert "1 tensors are missing (stem.weight)" in text
    assert "1 tensors are unknown (odd)" in text
    assert "norm.weight is [8] instead of [4]" in text


class Trap:
    def __reduce__(self):
        return (open, ("opened-by-pickle", "w"))


def test_objects_are_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Trap()}, "w.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"weight": Trap()}, protocol=2))
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (tmp_path / "cut.pth").write_bytes(b"")
    for name in ("w.pth", "plain.pth", "cut.safetensors", "cut.pth"):
        with pytest.raises(UserError, match=name):
            read_tensors(tmp_path / name)
    assert not (tmp_path / "opened-by-pickle").exists()


def test_an_absent_pretraining_is_named(tmp_path):
    with pytest.raises(UserError, match=r"encoder\.json"):
        load_encoder(tmp_path)


@pytest.mark.long
def test_a_narrow_small_resnet_trains_on_large_images():
    """In a process of its own: a strided 1x1 convolution ended it by a segmentation fault here."""
    code = (
        "import torch; from nml_ray.models.small_resnet import build_small_resnet; torch.set_num_threads(1)\n"
        "model = build_small_resnet(8, 3).to(memory_format=torch.channels_last)\n"
        "for _ in range(4):\n"
        "    images = torch.randn(4, 3, 224, 224).to(memory_format=torch.channels_last)\n"
        "    model(images).sum().backward()\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
