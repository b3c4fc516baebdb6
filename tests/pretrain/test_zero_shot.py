"""Prompts, class features, and the settings of both."""

import pytest
import torch

from nml_ray.config.errors import UserError
from nml_ray.models.clip import build_pair, tokenizer_of
from nml_ray.models.config import EncoderSettings
from nml_ray.models.text_config import TextSettings
from nml_ray.pretrain.clip_config import ZeroShotSettings
from nml_ray.pretrain.zero_shot import class_features, prompts


def test_prompts_name_each_class_in_each_template():
    settings = ZeroShotSettings(templates=("{}", "an icon of a {}"), names={"qr": "QR code"})
    assert prompts(settings, ["bell", "qr"]) == [["bell", "an icon of a bell"], ["QR code", "an icon of a QR code"]]


@pytest.mark.parametrize("template", ["icon", "{} and {}"])
def test_a_template_has_one_place(template):
    with pytest.raises(ValueError, match="once"):
        ZeroShotSettings(templates=(template,))


def test_names_of_classes_that_are_not_there_are_refused():
    with pytest.raises(UserError, match=r"no class 'bel'.*bell"):
        prompts(ZeroShotSettings(names={"bel": "ring"}), ["bell", "qr"])


def test_a_class_is_the_mean_of_its_prompts():
    encoder, text = EncoderSettings(width=2, channels=1, size=8), TextSettings(dim=8, buckets=64)
    pair, tokenizer = build_pair(encoder, text, 0), tokenizer_of(encoder, text)
    texts = [["bell", "a bell"], ["ship", "a ship"], ["x", "a x"]]
    features = class_features(pair, tokenizer, texts)
    expected = torch.stack([pair.text_features(tokenizer(of_class)).mean(0) for of_class in texts])
    torch.testing.assert_close(features, torch.nn.functional.normalize(expected, dim=1))


@pytest.mark.slow
def test_imagenet_brings_names_and_templates():
    settings = ZeroShotSettings(templates="imagenet", names="imagenet")
    texts = prompts(settings, [f"n{number:08d}" for number in range(1000)])
    assert len(texts) == 1000
    assert {len(of_class) for of_class in texts} == {80}
    assert texts[0][0] == "a bad photo of a tench."
    with pytest.raises(UserError, match="2 classes"):
        prompts(settings, ["a", "b"])
