"""Seconds to the first batch after a resume at 0 %, 50 % and 99 % of an epoch, against replaying with webdataset.

    .venv/bin/python benchmarks/data_resume.py         about three minutes; writes results/data_resume.json and .md

Ours opens the data set, makes the epoch's order, jumps to the step and decodes its batch of 256 on two threads.
webdataset has no way to jump: its pipeline is iterated over the raw samples (read, not decoded) up to the place, then
decodes; two DataLoader workers share the tars and so the skipping. Imports are not counted. The epoch has 48,000
samples (3,000 photographs, each tar linked 16 times); replaying grows with it, so it is also given per million.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from benchmarks.data_ours import opened
from benchmarks.data_peers import pil_chain, webdataset_samples
from benchmarks.measure import Goal, interleaved, median, number, parsed, parser, ratio, save, spread, table
from benchmarks.photos import linked_set, photo_set

NAME = "data_resume"
PLACES = (0.0, 0.5, 0.99)
WORKERS = 2


def ours(directory: Path, batch: int, place: float) -> float:
    """Seconds from nothing to the batch at this share of the epoch."""
    began = time.perf_counter()
    loader, schedule = opened(directory, batch, WORKERS)
    step = int(place * schedule.steps_per_epoch)
    steps = loader.steps(step, step + 1)
    images = sum(len(one.images) for one in next(steps))
    spent = time.perf_counter() - began
    steps.close()  # type: ignore[attr-defined]
    assert images == batch
    return spent


def replayed(directory: Path, batch: int, place: float, samples: int) -> float:
    """Seconds that webdataset takes to get there."""
    began = time.perf_counter()
    skip = int(place * (samples // batch)) * batch // WORKERS
    loader = DataLoader(webdataset_samples(directory, pil_chain(), skip=skip), batch_size=batch, num_workers=WORKERS)
    batches = iter(loader)
    images = len(next(batches)[1])
    spent = time.perf_counter() - began
    assert 0 < images <= batch
    return spent


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    made = parser(__doc__, photos=(3000, 24), times=(16, 2), rounds=(7, 1), batch=(256, 4))
    options = parsed(made, arguments)
    torch.set_num_threads(1)
    directory = linked_set(photo_set(options.data, options.photos, 1 if options.quick else 2), options.times)
    samples = options.photos * options.times
    arms: dict[str, Callable[[], float]] = {}
    for place in PLACES:
        arms[f"ours {place}"] = partial(ours, directory, options.batch, place)
        arms[f"webdataset {place}"] = partial(replayed, directory, options.batch, place, samples)
    if not options.quick:
        interleaved(arms, 1)
    seconds = interleaved(arms, options.rounds)
    own, peer = ([seconds[f"{name} {place}"] for place in PLACES] for name in ("ours", "webdataset"))
    rows = [
        [f"{100 * place:.0f} %", spread(a), spread(b), number(ratio(b, a))]
        for place, a, b in zip(PLACES, own, peer, strict=True)
    ]
    per_million = 1e6 * (median(peer[-1]) - median(peer[0])) / (PLACES[-1] * samples)
    medians = [median(values) for values in own]
    goals = [
        Goal("seconds to the first batch of ours, the longest of the three", max(medians), 1, at_least=False),
        Goal("ours at 99 % over ours at 0 %", ratio(own[-1], own[0]), 1.25, at_least=False),
    ]
    head = ["place in the epoch", "ours, s", "webdataset replaying, s", "times less"]
    text = [
        table(head, rows),
        f"An epoch of {samples:,} samples. Replaying costs {per_million:.0f} s per million samples skipped.",
    ]
    figures = {"samples": samples, "seconds": seconds, "replay_seconds_per_million": per_million}
    save(NAME, options.out, figures, text, goals)


if __name__ == "__main__":
    main()
