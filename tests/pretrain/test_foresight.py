"""The loader's threads have captions tokenized before the loop asks for them; tokens are those of each text alone."""

import threading

import pytest
import torch

from nml_ray.models.tokenizer import BytePairs
from nml_ray.pretrain.contrastive_arm import Texts
from tests.pretrain.test_loop import train

pytestmark = pytest.mark.long

CLIP = {"text": {"dim": 8, "buckets": 256}, "zero_shot": None}


def test_byte_pairs_are_open_clips_whether_remembered_or_not():
    from open_clip import SimpleTokenizer

    texts = ["A photo of a dog", "un éléphant bleu", "", "a " * 200, "A photo of a dog"]
    ours, theirs = BytePairs(20), SimpleTokenizer(context_length=20)
    for _ in range(2):
        tokens = ours(texts)
        assert tokens.dtype == torch.int64
        assert torch.equal(tokens, theirs(texts))


def test_the_threads_ask_first(make_plan, monkeypatch):
    asked: dict[str, list[torch.Tensor]] = {"decode": [], "main": []}
    real = Texts.tokens

    def watched(texts, numbers):
        asked["decode" if threading.current_thread().name.startswith("decode") else "main"].append(numbers)
        return real(texts, numbers)

    monkeypatch.setattr(Texts, "tokens", watched)
    plan = make_plan(("0", "0.3"), kind="caption_swap", objective="clip", clip=CLIP)
    train(plan)
    loop, threads = (sorted(numbers.tolist() for numbers in asked[who]) for who in ("main", "decode"))
    assert loop == threads
    assert len(loop) == 2 * 2 * 18  # arms, microbatches, steps


def test_what_fails_there_is_heard_of_in_the_loop(make_plan, monkeypatch):
    def broken(texts, numbers):
        raise RuntimeError("no caption")

    monkeypatch.setattr(Texts, "tokens", broken)
    with pytest.raises(RuntimeError, match="no caption"):
        train(make_plan(("0",), kind="caption_swap", objective="clip", clip=CLIP))
