"""The contrastive loss over a whole global batch, whatever the number of workers and microbatches (InfoNCE).

A step has three parts. Every worker computes the features of its microbatches; one all-reduce of a flat buffer gives
all of them to all. The loss and its gradient with respect to the features are computed on the features alone. Each
microbatch then passes that gradient on to the weights. With `cached` features (Gao et al. 2021, arXiv 2101.06983) the
first pass keeps no graph and each microbatch is computed once more when its turn comes, so a worker needs memory for
one microbatch only; without, all graphs of a worker's share are kept, which saves a third of the arithmetic.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from nml_ray.models.clip import ImageTextPair
from nml_ray.models.encoder import seeded
from nml_ray.pretrain.precision import Precision, autocast
from nml_ray.pretrain.world import World

Form = Literal["local", "full"]
MAX_LOG_SCALE = math.log(100)


@dataclass(frozen=True)
class Pairs:
    """One microbatch of image-text pairs as fed.

    Attributes:
        images: normalised, [N, C, H, W].
        tokens: of the captions, int64 [N, L].
        places: in the global batch, int64 [N].
        weights: float32 [N], 0 where the image could not be decoded: such a pair is nobody's row or column.
        seed: of dropout and drop-path.
    """

    images: Tensor
    tokens: Tensor
    places: Tensor
    weights: Tensor
    seed: int


def contrastive_losses(
    images: Tensor, texts: Tensor, scale: Tensor, weights: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE of some rows against the whole batch (Radford et al. 2021, figure 3).

    Args:
        images: unit features of the whole batch, [B, D].
        texts: likewise; text i belongs to image i.
        scale: factor of the cosines.
        weights: [B]; pairs of weight 0 are left out.
        rows: which pairs' losses are wanted, int64 [N].

    Returns:
        Losses [N], 0 for pairs left out; and whether no other text is closer to the image than its own, bool [N].
    """
    good = weights > 0
    place = good.cumsum(0) - 1
    counted = good[rows]
    targets = place[rows[counted]]
    losses, hits = images[rows, 0] * 0, torch.zeros_like(counted)  # zeros with a graph, should all be left out
    if not len(targets):
        return losses, hits
    images, texts = images[good], texts[good]
    of_images = scale * images[targets] @ texts.T
    of_texts = scale * texts[targets] @ images.T
    both = cross_entropy(of_images, targets, reduction="none") + cross_entropy(of_texts, targets, reduction="none")
    own = of_images.detach().gather(1, targets[:, None]).squeeze(1)
    hits[counted] = own >= of_images.detach().amax(1)
    return losses.masked_scatter(counted, both / 2), hits


def backward(
    pair: ImageTextPair,
    fed: Sequence[Pairs],
    batch: int,
    world: World,
    form: Form = "local",
    cached: bool = True,
    precision: Precision = "float32",
    loss_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Add this worker's share of the gradient of the summed, weighted losses to the parameters.

    Summed over the workers, the shares make up the gradient of the whole batch; `form` says who computes what of the
    loss. `local`: each worker its own rows, then the features' gradients are summed over the workers. `full`: each
    worker all rows, and nothing more is exchanged.

    Args:
        pair: in training mode.
        fed: this worker's microbatches.
        batch: global batch B.
        world: the workers.
        form: of the loss.
        cached: whether features are computed first without graph.
        precision: of the towers; features, loss and their gradients are float32.
        loss_scale: factor of the gradient.

    Returns:
        Losses and hits of the pairs fed, [N] each, in their order.
    """
    with torch.no_grad():
        pair.logit_scale.clamp_(0, MAX_LOG_SCALE)
    held = [_features(pair, microbatch, precision, graph=not cached) for microbatch in fed]
    places = torch.cat([microbatch.places for microbatch in fed])
    images, texts, weights = _gather(held, fed, batch, world)
    losses, hits, (*gradients, of_scale) = _gradients(pair, images, texts, weights, places, world, form)
    torch.autograd.backward(pair.logit_scale, of_scale * loss_scale)
    for microbatch, features in zip(fed, held, strict=True):
        again = _features(pair, microbatch, precision, graph=True) if cached else features
        torch.autograd.backward(again, [gradient[microbatch.places] * loss_scale for gradient in gradients])
    return losses, hits


def _features(pair: ImageTextPair, fed: Pairs, precision: Precision, graph: bool) -> tuple[Tensor, Tensor]:
    """Features of images and texts, [N, D] each; without graph BatchNorm's running statistics are left alone."""
    mode = nullcontext() if graph else _aside(pair)
    with seeded(fed.seed), torch.set_grad_enabled(graph), mode, autocast(precision, fed.images.device):
        return pair.image_features(fed.images), pair.text_features(fed.tokens)


@contextmanager
def _aside(model: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm normalises by the microbatch as in training but notes nothing of it."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _gather(
    held: Sequence[tuple[Tensor, Tensor]], fed: Sequence[Pairs], batch: int, world: World
) -> tuple[Tensor, Tensor, Tensor]:
    """Features and weights of the whole batch by place: each place is one worker's, and the others add zeros to it."""
    dim = held[0][0].shape[1]
    flat = held[0][0].new_zeros(batch, 2 * dim + 1)
    for (images, texts), microbatch in zip(held, fed, strict=True):
        rows = torch.cat([images.detach(), texts.detach(), microbatch.weights[:, None]], 1)
        flat[microbatch.places] = rows
    world.sum_(flat)
    images, texts, weights = flat.split([dim, dim, 1], 1)
    return images.contiguous(), texts.contiguous(), weights.squeeze(1)


def _gradients(
    pair: ImageTextPair, images: Tensor, texts: Tensor, weights: Tensor, places: Tensor, world: World, form: Form
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """This worker's losses and hits, and gradients: of the whole batch's loss by its features, [B, D] twice, and this
    worker's share of that by the logarithm of the scale (`full`: rank 0 has it all)."""
    rows = places if form == "local" else torch.arange(len(weights), device=weights.device)
    with torch.enable_grad():
        images, texts = images.requires_grad_(), texts.requires_grad_()
        losses, hits = contrastive_losses(images, texts, pair.logit_scale.exp(), weights, rows)
        total = (losses * weights[rows]).sum()
    wanted = (images, texts, pair.logit_scale)
    of_images, of_texts, of_scale = torch.autograd.grad(total, wanted, materialize_grads=True)
    if form == "full":
        share = of_scale if world.rank == 0 else torch.zeros_like(of_scale)
        return losses[places].detach(), hits[places], (of_images, of_texts, share)
    flat = world.sum_(torch.cat([of_images, of_texts], 1))
    of_images, of_texts = flat.tensor_split(2, 1)
    return losses.detach(), hits, (of_images, of_texts, of_scale)
