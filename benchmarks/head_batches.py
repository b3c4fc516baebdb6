"""Many settings of NMTune on one set of features: trained as one program, against one after another.

    python benchmarks/head_batches.py                   where there is no GPU: some minutes; writes
                                                        results/head_batches.json and .md
    python benchmarks/head_batches.py --device cuda     64 settings, 30 epochs of 5000 samples

On CUDA both arms are the same code, which trains batches of all settings or of one. On the CPU the other arm is what a
sweep does there: a thread for each setting, a worker process for each core; the batch has as many threads as there are
cores. Both forms are held to the same losses. The settings are those of the preset `official` with two views, four
learning rates, weights of the singular-value term and head seeds in all combinations.
"""

import argparse
import itertools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import psutil
import torch

from benchmarks.measure import Goal, interleaved, number, parsed, parser, ratio, save, spread, table
from nml_ray.config.cores import whole_cores
from nml_ray.data.draw import key_hashes
from nml_ray.heads.batch_fit import Samples, fit_batches
from nml_ray.heads.config import HeadSetting, head_setting
from nml_ray.heads.fit import fit

NAME = "head_batches"
CLASSES, VIEWS = 20, 2
CUDA_GOALS = {512: 12.0, 2048: 5.0}

Losses = list[tuple[float, ...]]


@dataclass(frozen=True)
class Spent:
    """Seconds on the clock and of CPU, of all processes."""

    seconds: float
    cpu: float


def samples(rows: int, dim: int) -> Samples:
    """Views [2, N, D] around class centres, none negative."""
    generator = np.random.default_rng(0)
    labels = np.resize(np.arange(CLASSES), rows)
    centres = generator.normal(size=(CLASSES, dim))[labels]
    views = [np.maximum(centres + generator.normal(size=(rows, dim)), 0).astype(np.float32) for _ in range(VIEWS)]
    return Samples(np.stack(views), labels, key_hashes(map(str, range(rows))))


def searched(count: int, epochs: int) -> tuple[list[HeadSetting], list[int]]:
    """The first `count` settings of the search, and their seeds."""
    grid = itertools.product(range(4), (1e-3, 3e-4, 3e-3, 1e-4), (0.001, 0.01, 0.0, 0.1))
    points = list(itertools.islice(grid, count))
    settings = [
        head_setting("nmtune", "official", epochs=epochs, learning_rate=rate, svd_weight=weight)
        for _, rate, weight in points
    ]
    return settings, [seed for seed, _, _ in points]


def batched(settings: Sequence[HeadSetting], seeds: Sequence[int], given: Samples, device: str) -> Losses:
    """All as one program."""
    fits = sorted(fit_batches(settings, seeds, given, device), key=lambda one: one.number)
    return [one.head.losses for one in fits]


_held: list[Samples] = []


def hold(rows: int, dim: int) -> None:
    """What a worker process does first."""
    _held[:] = [samples(rows, dim)]


def one_fit(setting: HeadSetting, seed: int) -> tuple[float, ...]:
    """What a worker process does for each setting."""
    (given,) = _held
    return fit(setting, given.features, given.labels, given.key_hashes, seed).losses


def timed(run: Callable[[], Losses], losses: list[Losses]) -> Spent:
    """What a run takes; its losses are kept."""
    before, began = used(), time.perf_counter()
    losses.append(run())
    return Spent(time.perf_counter() - began, used() - before)


def used() -> float:
    """CPU-seconds of this process and those below it, so far."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def measure(dim: int, options: argparse.Namespace, count: int) -> dict[str, list[Spent]]:
    """What both forms take, by round."""
    settings, seeds = searched(count, options.epochs)
    given = samples(options.rows, dim)
    losses: list[Losses] = []
    if options.device == "cuda":

        def single() -> Losses:
            return [batched([s], [seed], given, "cuda")[0] for s, seed in zip(settings, seeds, strict=True)]

        single()
        arms = {"one after another": single, "one program": lambda: batched(settings, seeds, given, "cuda")}
        return interleaved({name: lambda run=run: timed(run, losses) for name, run in arms.items()}, options.rounds)
    cores = whole_cores()
    torch.set_num_threads(cores)
    context = get_context("spawn")
    with ProcessPoolExecutor(cores, context, hold, (options.rows, dim)) as pool:
        short = [setting.model_copy(update={"epochs": 1}) for setting in settings[:cores]]
        list(pool.map(one_fit, short, seeds[:cores]))  # both are warm
        batched(short, seeds[:cores], given, "cpu")
        arms = {
            "a thread a setting": lambda: list(pool.map(one_fit, settings, seeds)),
            "one program": lambda: batched(settings, seeds, given, "cpu"),
        }
        found = interleaved({name: lambda run=run: timed(run, losses) for name, run in arms.items()}, options.rounds)
    for each in losses[1:]:
        np.testing.assert_allclose(each, losses[0], rtol=0.02)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    made = parser(__doc__, settings=(64, 4), epochs=(30, 1), rows=(5000, 128), dim=(2048, 32), rounds=(3, 1))
    made.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    options = parsed(made, arguments)
    if options.device == "cpu" and not options.quick:  # minutes, not days
        options.epochs, options.rows = 1, 256
    rows, figures, goals = [], {}, []
    for dim in (options.dim // 4, options.dim):
        few = options.device == "cpu" and not options.quick
        count = (4 if dim > 1000 else 16) if few else options.settings
        spent = measure(dim, options, count)
        other = next(iter(spent))
        clock, cpu = (
            ratio([getattr(s, what) for s in spent[other]], [getattr(s, what) for s in spent["one program"]])
            for what in ("seconds", "cpu")
        )
        for name, values in spent.items():
            shown = [spread([value.seconds for value in values]), spread([value.cpu for value in values])]
            rows.append([f"D = {dim}, {count} settings", name, *shown])
        figures[dim] = {name: [vars(value) for value in values] for name, values in spent.items()}
        words = f"D = {dim}, {count} settings, {options.epochs} epoch(s) of {options.rows} samples"
        if options.device == "cuda":
            goals.append(Goal(f"{words}: {other} over one program, seconds", clock, CUDA_GOALS.get(dim, 1.0)))
        else:  # a sweep on the CPU gives each setting a thread: right as long as that is not the slower form
            goals.append(Goal(f"{words}: CPU of one program over {other}", 1 / cpu, 1.0))
            rows[-1][1] += f" ({number(clock)} times as fast on the clock)"
    head = ["features", "form", "seconds: median (lowest..highest)", "CPU-seconds of all processes"]
    facts = {"device": options.device, "figures": figures, "load": os.getloadavg(), "threads": torch.get_num_threads()}
    default = "The default, which a sweep's record names: `sequential` on the CPU, `batched` on CUDA."
    save(NAME, options.out, facts, [table(head, rows), default], goals)


if __name__ == "__main__":
    main()
