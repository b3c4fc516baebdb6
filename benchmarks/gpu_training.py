"""Training and extraction on a GPU from JPEG shards, against the same model on data that the device has already.

    .venv/bin/python benchmarks/gpu_training.py                          on one GPU: under ten minutes
    .venv/bin/python benchmarks/gpu_training.py --device cpu --quick     the whole script small, on a processor

Needs the package alone: everything runs in this process, without Ray. ResNet-50 on 224 px under bfloat16, channels
last, without and with torch.compile, SGD, one arm; JPEGs of 500x375 (`photos.py`) made on the spot and read from the
page cache. Each figure is of `--seconds` after a warm-up:

    shards      the training loop as it is: tars, decoding, resized crops, copies, log, checkpoints
    synthetic   the same arm and optimiser on one batch that stays on the device: the most that the loop could reach
    decoding    the loader alone, with as many threads and nothing computed: the most that these cores could feed

and of extraction, from shards of 4,096 images, likewise. A batch is of 256 images, on a small GPU of fewer.
`data wait` is the share of the time in which the loop waited for a batch; it runs a step ahead of the GPU, so short
waits cost nothing. Writes results/gpu_training_DEVICE.json and .md.
"""

import argparse
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch

from benchmarks.gpu_parts import Bench, Figures, parts
from benchmarks.measure import Goal, number, parsed, parser, save, table
from benchmarks.photos import linked_set, photo_set
from nml_ray.config.cores import whole_cores
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.device import training_device


def measured(bench: Bench, modes: Sequence[bool], rows: int) -> tuple[dict[str, Figures], dict[str, str]]:
    """The figures of each part, and why those that are missing failed (no compiler for torch.compile, no memory)."""
    found: dict[str, Figures] = {}
    failed: dict[str, str] = {}
    for name, part in parts(bench, modes, rows):
        began = time.perf_counter()
        try:
            found[name] = part()
            said = f"{number(found[name].rate)} images/s"
        except Exception as error:
            if "compiled" not in name:
                raise
            failed[name] = said = f"failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        print(f"{name}: {said} ({time.perf_counter() - began:.0f} s)", file=sys.stderr, flush=True)
    return found, failed


def row(name: str, figures: Figures, of: Figures | None) -> list[str]:
    """A row of the table."""

    def percent(share: float | None) -> str:
        return "" if share is None else f"{share:.1%}"

    return [
        name,
        number(figures.rate),
        percent(figures.rate / of.rate) if of else "",
        percent(figures.data_wait),
        percent(figures.mfu),
        f"{figures.peak_bytes / 2**30:.1f}" if figures.peak_bytes else "",
        f"{1000 * figures.checkpoint_seconds:.0f}" if figures.checkpoint_seconds is not None else "",
    ]


def limit(what: str, taken: Figures, fed: Figures, threads: int) -> str:
    """Which of the two is the bottleneck, and how many threads it would take, in words."""
    each = fed.rate / threads
    needed = int(np.ceil(taken.rate / each))
    rates = f"{threads} threads feed {number(fed.rate)} images/s, the device takes {number(taken.rate)}"
    if fed.rate < taken.rate:
        return f"* {what}: DECODING IS THE BOTTLENECK: {rates}; it would take {needed} threads on as many cores"
    return f"* {what}: decoding keeps up: {rates}, for which {needed} threads are enough"


def summed_up(found: dict[str, Figures], modes: Sequence[bool], threads: int) -> tuple[list[str], list[Goal]]:
    """Tables and goals."""
    names = [(f"shards{', compiled' * mode}", f"synthetic{', compiled' * mode}") for mode in modes]
    pairs = [pair for pair in names if set(pair) <= found.keys()]
    best = max(pairs, key=lambda pair: found[pair[1]].rate)
    against = {**dict(pairs), "extraction": "forward pass"}
    shards = {name: replace(found[name], mfu=_mfu(found, name, of)) for name, of in pairs}
    figures = {**found, **shards}
    rows = [row(name, one, found.get(against.get(name, ""))) for name, one in figures.items()]
    head = ["part", "images/s", "share", "data wait", "MFU", "GPU memory, GiB", "checkpoint stall, ms"]
    words = [
        limit("training", found[best[1]], found["decoding"], threads),
        limit("extraction", found["forward pass"], found["decoding for extraction"], threads),
    ]
    goals = []
    for name, of in pairs:
        goals.append(Goal(f"{name} over {of}", found[name].rate / found[of].rate, 0.9))
        goals.append(Goal(f"data wait of {name}", found[name].data_wait or 0.0, 0.1, at_least=False))
    goals.append(Goal("extraction over its forward pass", found["extraction"].rate / found["forward pass"].rate, 0.9))
    return [table(head, rows), "\n".join(words)], goals


def _mfu(found: dict[str, Figures], name: str, of: str) -> float | None:
    whole = found[of].mfu
    return None if whole is None else whole * found[name].rate / found[of].rate


def batch_for(device: torch.device) -> int:
    """256 images, or as many as ResNet-50's activations leave room for."""
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
    return next((batch for least, batch in ((36, 256), (20, 128)) if memory >= least << 30), 64)


def device_name(device: torch.device) -> str:
    """As the driver calls it, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def recipe(options: argparse.Namespace) -> PretrainSettings:
    """ResNet-50 under SGD; something tiny with `--quick`."""
    small = {"name": "small_resnet", "width": 4, "size": 32}
    return PretrainSettings.model_validate(
        {
            "encoder": small if options.quick else {"name": "torchvision:resnet50", "size": 224},
            "batch": options.batch,
            "epochs": 1000,
            "augmentation": {"kind": "resized_crop"},
            "optimiser": {"name": "sgd", "learning_rate": 0.1, "weight_decay": 5e-5},
            "precision": "bfloat16",
        }
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    made = parser(__doc__, seconds=(20, 1), photos=(3072, 24), batch=(0, 8), copies=(16, 4), rows=(4096, 24))
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch's name of it")
    made.add_argument("--threads", type=int, help="that decode; one fewer than there are cores when left out")
    made.add_argument("--compile", choices=("both", "on", "off"), help="default both, with --quick off")
    options = parsed(made, arguments)
    torch.set_num_threads(1)
    device = training_device(options.device)
    options.batch = options.batch or batch_for(device)
    photos = linked_set(photo_set(options.data, options.photos, whole_cores()), options.copies)
    threads = options.threads or max(1, whole_cores() - 1)
    modes = {"off": [False], "on": [True], "both": [False, True]}[
        options.compile or ("off" if options.quick else "both")
    ]
    work = Path(mkdtemp(prefix="gpu-training-", dir=options.data))
    try:
        bench = Bench(device, recipe(options), threads, options.seconds, photos, work)
        found, failed = measured(bench, modes, options.rows)
    finally:
        shutil.rmtree(work)
    tables, goals = summed_up(found, modes, threads)
    tables += [f"* {name} {why}" for name, why in failed.items()]
    name = device_name(device)
    cuda = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()} if device.type == "cuda" else {}
    facts = {"device": name, "threads": threads, "batch": options.batch, **cuda, "failed": failed}
    tables.insert(0, f"{name}, {threads} decoding threads, batch {options.batch}, bfloat16, channels-last")
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    parts_found = {part: asdict(figures) for part, figures in found.items()}
    save(f"gpu_training_{slug}", options.out, {**facts, "parts": parts_found}, tables, goals, script="gpu_training")
    print(tables[1])


if __name__ == "__main__":
    main()
