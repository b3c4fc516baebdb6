"""One step of NMTune on a CPU thread, against the losses as they are usually written.

    .venv/bin/python benchmarks/head_step.py    about two minutes; writes results/head_step.json and .md

The head of the preset `official` (MLP D-4D-D with BatchNorm and residual, 100 classes), two views of 64 samples, so 128
rows, float32, on one thread. The reference is PyTorch's own layers, the D x D covariance less its diagonal, singular
values by `torch.svd`, and AdamW with `foreach`. Ours is what `heads.fit` does: the losses from the 128 x 128 Grams,
gradients of weights in memory that is kept, fused AdamW. Both begin at the same weights; their first losses must agree.
The figures are CPU-seconds of this process.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measure import Goal, interleaved, number, parsed, parser, ratio, save, spread, table
from nml_ray.heads.adamw import AdamW
from nml_ray.heads.config import NMTune, head_setting
from nml_ray.heads.fit import objective
from nml_ray.heads.modules import new_head

NAME = "head_step"
CLASSES, BATCH = 100, 64
GOAL = 1.8

Step = Callable[[], float]


def data(dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two views [64, D] that look like a network's features, none negative and many zero, and labels [64]."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    centres = torch.randn(CLASSES, dim, generator=generator)[labels]
    first, second = ((centres + torch.randn(BATCH, dim, generator=generator)).relu() for _ in range(2))
    return first, second, labels


class Plain(nn.Module):
    """The head of PyTorch's own layers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.BatchNorm1d(4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))
        self.scale = nn.Parameter(torch.ones(1, dim))
        self.classifier = nn.Linear(dim, CLASSES)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Z and logits."""
        z = self.scale * self.mlp(rows) + rows
        return z, self.classifier(z)


def reference_loss(head: Plain, setting: NMTune, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    """The loss from its formulas, nothing rearranged."""
    z, logits = head(torch.cat([first, second]))
    loss = functional.cross_entropy(logits, labels.repeat(2))
    matched, wanted = functional.normalize(z[BATCH:]), functional.normalize(first.detach())
    loss = loss + setting.mse_weight * functional.mse_loss(matched, wanted)
    centred = z - z.mean(dim=0)
    matrix = centred.T @ centred / (len(z) - 1)
    dim = len(matrix)
    off_diagonal = matrix.flatten()[:-1].view(dim - 1, dim + 1)[:, 1:].flatten()
    loss = loss + setting.cov_weight * off_diagonal.pow(2).sum() / dim
    sigma = torch.svd(z)[1]
    return loss - setting.svd_weight * (sigma / sigma.sum())[: setting.top_k].mean()


def reference(setting: NMTune, dim: int) -> Step:
    """A step as it is usually written."""
    head, rows = Plain(dim), data(dim)
    head.load_state_dict(new_head(setting, dim, CLASSES, 0).state_dict())
    optimiser = torch.optim.AdamW(
        head.parameters(), lr=setting.learning_rate, weight_decay=setting.weight_decay, foreach=True
    )

    def step() -> float:
        loss = reference_loss(head, setting, *rows)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def ours(setting: NMTune, dim: int) -> Step:
    """A step of `heads.fit.optimise`."""
    head, (first, second, labels) = new_head(setting, dim, CLASSES, 0), data(dim)
    optimiser = AdamW(head.parameters(), setting.weight_decay)

    def step() -> float:
        loss = objective(head, setting, first, second, labels)
        assert loss is not None
        loss.backward()
        with torch.no_grad():
            optimiser.step(setting.learning_rate)
        return float(loss.detach())

    return step


def spent(step: Step, steps: int) -> float:
    """Milliseconds of CPU for one step."""
    began = time.process_time()
    for _ in range(steps):
        step()
    return 1000 * (time.process_time() - began) / steps


def measure(dim: int, steps: int, rounds: int) -> tuple[dict[str, list[float]], float]:
    """Milliseconds of both by round, and the relative difference of their first losses."""
    setting = head_setting("nmtune", "official", batch=BATCH)
    assert isinstance(setting, NMTune)
    made = {"reference": reference(setting, dim), "ours": ours(setting, dim)}
    first = [step() for step in made.values()]  # and warm
    arms = {name: lambda step=step: spent(step, steps) for name, step in made.items()}
    return interleaved(arms, rounds), abs(first[0] / first[1] - 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    options = parsed(parser(__doc__, rounds=(7, 1), steps=(3, 1), dim=(2048, 64)), arguments)
    torch.set_num_threads(1)
    rows, found, goals = [], {}, []
    for dim in sorted({options.dim // 4, options.dim}):
        millis, apart = measure(dim, options.steps, options.rounds)
        if apart > 1e-5:
            raise RuntimeError(f"the two forms' first losses differ by {apart:.1e}")
        gain = ratio(millis["reference"], millis["ours"])
        found[dim] = {"millis": millis, "first_losses_apart": apart, "gain": gain}
        rows += [[f"D = {dim}, {2 * BATCH} rows", *(spread(millis[name]) for name in millis), number(gain)]]
        if dim == options.dim:
            goals.append(Goal(f"CPU of one step at D = {dim}, the reference's over ours", gain, GOAL))
    head = ["step", "reference, ms of CPU: median (lowest..highest)", "ours, ms of CPU", "times less"]
    save(NAME, options.out, {"dims": found}, [table(head, rows)], goals)


if __name__ == "__main__":
    main()
