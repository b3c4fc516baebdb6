"""A tiny pair and its batch; as a program, one of several workers that share the batch:
python -m tests.pretrain.contrastive_worker RENDEZVOUS RANK SIZE. Rank 0 leaves the summed gradients and losses.
"""

import sys

import torch
import torch.distributed
from safetensors.torch import save_file
from torch import nn

from nml_ray.models.clip import ImageTextPair
from nml_ray.models.encoder import Encoder
from nml_ray.models.preprocess import InputSpec
from nml_ray.pretrain.contrastive import Pairs, backward
from nml_ray.pretrain.world import World


class Tower(nn.Module):
    """BatchNorm, whose statistics are a microbatch's, and dropout, which draws."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 6)
        )

    def forward(self, values):
        return self.layers(values.float())


def make_pair() -> ImageTextPair:
    torch.manual_seed(0)
    encoder = Encoder(Tower(27), 6, InputSpec(3, 3, (0.5,) * 3, (0.5,) * 3, 3))
    return ImageTextPair(encoder, nn.Identity(), Tower(5)).train()


def microbatches(batch: int, size: int) -> list[Pairs]:
    draws = torch.Generator().manual_seed(3)
    images, tokens = torch.randn(batch, 3, 3, 3, generator=draws), torch.randint(0, 9, (batch, 5), generator=draws)
    weights = torch.ones(batch)
    weights[5] = 0
    return [
        Pairs(images[places], tokens[places], places, weights[places], seed=int(places[0]))
        for places in torch.arange(batch).split(size)
    ]


def shares(world: World) -> dict[str, torch.Tensor]:
    """Losses and gradients of the whole batch, flat, by the form of the loss and whether features were cached."""
    found = {}
    for form in ("local", "full"):
        for cached in (False, True):
            pair, own = make_pair(), microbatches(24, 4)[world.rank :: world.size]
            losses = torch.zeros(24)
            losses[torch.cat([one.places for one in own])], _ = backward(pair, own, 24, world, form, cached)
            parts = [losses, *(parameter.grad.reshape(-1) for parameter in pair.parameters())]
            found[f"{form}-{cached}"] = world.sum_(torch.cat(parts))
    return found


def main() -> None:
    rendezvous, rank, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size)
    torch.set_num_threads(1)
    found = shares(World(rank, size))
    if rank == 0:
        save_file(found, f"{rendezvous}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
