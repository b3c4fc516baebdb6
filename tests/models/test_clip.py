"""Image-text pairs: tokenizers, the small text tower, and open_clip's models by name with their weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from nml_ray.config.errors import UserError
from nml_ray.models.clip import build_pair, load_pair, tokenizer_of, write_pair
from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import build_encoder, load_encoder, write_encoder
from nml_ray.models.openclip import as_published, configurations, with_text_apart
from nml_ray.models.text_config import TextSettings
from nml_ray.models.tokenizer import HashedParts, parts_of

SMALL = EncoderSettings(width=4, channels=1, size=16)
TEXT = TextSettings(dim=8, buckets=64)


def test_words_come_before_their_parts():
    assert list(parts_of("a pin"))[:2] == ["a", "pin"]
    assert list(parts_of("pin"))[1:] == ["<pi", "pin", "in>", "<pin", "pin>", "<pin>"]
    assert list(parts_of("")) == []


def test_tokens_are_case_blind_padded_and_cut():
    tokenizer = HashedParts(buckets=64, context=6)
    tokens = tokenizer(["Pin", "pin ", "a", "shopping cart outline"])
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens[0], tokens[1])
    assert tokens[2].tolist()[2:] == [0] * 4
    assert (tokens[3] > 0).all()
    assert int(tokens.max()) < tokenizer.vocabulary == 65


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_any_text_has_tokens_in_range(texts):
    tokens = HashedParts(buckets=16, context=9)(texts)
    assert tokens.shape == (len(texts), 9)
    assert int(tokens.min()) >= 0 and int(tokens.max()) <= 16


def test_a_small_pair_is_a_function_of_its_seed():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (build_pair(SMALL, TEXT, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert not torch.equal(first.text.embedding.weight, other.text.embedding.weight)
    images = first.image_features(torch.randn(3, 1, 16, 16))
    texts = first.text_features(tokenizer_of(SMALL, TEXT)(["bell", "ship", ""]))
    assert images.shape == texts.shape == (3, 8)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(3))


def test_a_pair_is_read_back_with_its_tokenizer(tmp_path):
    pair = build_pair(SMALL, TEXT, 3)
    write_pair(tmp_path, pair, SMALL, TEXT)
    again, tokenizer = load_pair(tmp_path)
    for name, tensor in pair.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert torch.equal(tokenizer(["a bell"]), tokenizer_of(SMALL, TEXT)(["a bell"]))
    with pytest.raises(UserError, match="no such file"):
        load_pair(tmp_path / "nowhere")


def test_names_that_need_a_network_are_unknown():
    assert "RN50" in configurations()
    assert "ViT-B-32" in configurations()
    for name in ("roberta-ViT-B-32", "ViT-B-16-SigLIP", "coca_ViT-B-32"):
        assert name not in configurations()
    for build in (build_encoder, lambda given: build_pair(given, TEXT, 0)):
        with pytest.raises(UserError, match=r"no encoder 'open_clip:RN5'.*open_clip:RN50"):
            build(EncoderSettings(name="open_clip:RN5"))


def test_text_weights_are_named_as_published():
    tensors = {name: torch.zeros(1) for name in ("visual.a", "text.b", "logit_scale")}
    assert set(as_published("RN50", tensors)) == {"visual.a", "b", "logit_scale"}
    assert set(with_text_apart(as_published("RN50", tensors))) == set(tensors)
    assert set(as_published("convnext_xxlarge", tensors)) in (set(tensors), {"visual.a", "b", "logit_scale"})


@pytest.mark.slow
def test_open_clip_loads_what_we_leave_and_we_load_what_it_leaves(tmp_path):
    import open_clip

    given = EncoderSettings(name="open_clip:ViT-S-32-alt", size=64, channels_last=False)
    pair = build_pair(given, TEXT, 0)
    write_pair(tmp_path, pair, given, TEXT)
    theirs = open_clip.create_model("ViT-S-32-alt", pretrained=str(tmp_path / "clip.safetensors"), force_image_size=64)
    images = torch.randn(2, 3, 64, 64)
    tokens = tokenizer_of(given, TEXT)(["a photo of a bell", "A Ship!"])
    assert torch.equal(tokens, open_clip.get_tokenizer("ViT-S-32-alt")(["a photo of a bell", "A Ship!"]))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval().encode_image(images, normalize=True), pair.image_features(images))
        torch.testing.assert_close(theirs.encode_text(tokens, normalize=True), pair.text_features(tokens))

    save_file(
        {name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}, tmp_path / "theirs.safetensors"
    )
    weighted = given.model_copy(update={"weights": str(tmp_path / "theirs.safetensors")})
    again = build_pair(weighted, TEXT, 1)
    for name, tensor in pair.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    encoder = build_encoder(weighted)
    write_encoder(tmp_path, encoder, given)
    with torch.no_grad():
        features = load_encoder(tmp_path)(images)
        torch.testing.assert_close(features, pair.encoder(images))
    assert features.shape == (2, encoder.dim) == (2, 256)
    assert np.allclose(encoder.input.mean, (0.48145466, 0.4578275, 0.40821073))
