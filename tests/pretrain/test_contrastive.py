"""The contrastive loss and its gradient, against open_clip's own, cached and not, by one worker and by several."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, normalize

from nml_ray.models.clip import ImageTextPair
from nml_ray.pretrain.contrastive import _gradients, backward, contrastive_losses
from nml_ray.pretrain.world import World
from tests.pretrain.contrastive_worker import make_pair, microbatches, shares


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def unit(rows: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_losses_are_those_of_the_papers_pseudocode():
    images, texts, scale = unit(10, 0), unit(10, 1), torch.tensor(14.0)
    losses, hits = contrastive_losses(images, texts, scale, torch.ones(10), torch.arange(10))
    logits, labels = images @ texts.T * scale, torch.arange(10)
    expected = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(losses.mean(), expected)
    assert hits.tolist() == (logits.argmax(1) == labels).tolist()


def test_pairs_of_weight_zero_are_nobodys_row_or_column():
    images, texts, scale = unit(10, 0), unit(10, 1), torch.tensor(14.0)
    weights = torch.ones(10)
    weights[[2, 7]] = 0
    kept = weights > 0
    losses, hits = contrastive_losses(images, texts, scale, weights, torch.arange(10))
    alone = contrastive_losses(images[kept], texts[kept], scale, torch.ones(8), torch.arange(8))
    assert losses[~kept].tolist() == [0, 0]
    assert not hits[~kept].any()
    torch.testing.assert_close(losses[kept], alone[0])
    assert torch.equal(hits[kept], alone[1])
    nothing, _ = contrastive_losses(images, texts, scale, torch.zeros(10), torch.arange(10))
    assert nothing.tolist() == [0] * 10


def test_a_caption_that_stands_twice_hits():
    images, texts = unit(4, 0), unit(1, 1).expand(4, -1)
    assert contrastive_losses(images, texts, torch.tensor(1.0), torch.ones(4), torch.arange(4))[1].all()


def gradients(pair: ImageTextPair) -> list:
    return [parameter.grad for parameter in pair.parameters()]


@pytest.mark.parametrize("form", ["local", "full"])
def test_cached_features_give_the_same_gradients_losses_and_statistics(form):
    results = []
    for cached in (False, True):
        pair = make_pair()
        losses, hits = backward(pair, microbatches(24, 6), 24, World(), form, cached)
        results.append((gradients(pair), losses, hits, [*pair.buffers()]))
    for kept, cached in zip(*results, strict=True):
        torch.testing.assert_close(kept, cached, rtol=0, atol=0)


def test_the_gradient_is_that_of_the_whole_loss():
    pair = make_pair()
    pair.eval()  # without noise and ties within a microbatch
    fed = microbatches(24, 6)
    backward(pair, fed, 24, World())
    whole = make_pair().eval()
    images = whole.image_features(torch.cat([one.images for one in fed]))
    texts = whole.text_features(torch.cat([one.tokens for one in fed]))
    weights = torch.cat([one.weights for one in fed])
    losses, _ = contrastive_losses(images, texts, whole.logit_scale.exp(), weights, torch.arange(24))
    losses.mean().backward()
    torch.testing.assert_close([one / 24 for one in gradients(pair)], gradients(whole), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("workers", [2, 3])
def test_rows_shared_among_workers_add_up_to_the_full_form(workers):
    """As gradients of the mean over the batch, like those of a step."""
    images, texts, weights = unit(24, 0), unit(24, 1), torch.ones(24)
    weights[5] = 0
    everyone = torch.arange(24)
    shares = [torch.cat(everyone.split(4)[rank::workers]) for rank in range(workers)]
    full, local = make_pair(), make_pair()
    losses, _, gradient = _gradients(full, images, texts, weights, everyone, World(), "full")
    parts = [_gradients(local, images, texts, weights, share, World(), "local") for share in shares]
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), losses[torch.cat(shares)], rtol=1e-6, atol=1e-6)
    for one in range(3):
        torch.testing.assert_close(sum(part[2][one] for part in parts) / 24, gradient[one] / 24, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_gloo_workers_give_the_gradient_of_one(tmp_path):
    """Both forms, cached or not, at 1, 2 and 3 workers."""
    found = {1: shares(World()), **{workers: run_workers(workers, tmp_path) for workers in (2, 3)}}
    for workers in (2, 3):
        for name, expected in found[1].items():
            torch.testing.assert_close(found[workers][name] / 24, expected / 24, rtol=1e-5, atol=1e-6)
    forms = [{name: value for name, value in found[3].items() if name.startswith(form)} for form in ("local", "full")]
    for local, full in zip(forms[0].values(), forms[1].values(), strict=True):
        torch.testing.assert_close(local / 24, full / 24, rtol=1e-6, atol=1e-6)


def run_workers(workers: int, directory: Path) -> dict[str, torch.Tensor]:
    meeting = directory / f"meet-{workers}"
    command = [sys.executable, "-m", "tests.pretrain.contrastive_worker", str(meeting)]
    processes = [subprocess.Popen([*command, str(rank), str(workers)]) for rank in range(workers)]
    assert [process.wait() for process in processes] == [0] * workers
    return load_file(f"{meeting}.safetensors")
