"""Memory of the loader over an epoch, and over data sets of one and four times the size.

    .venv/bin/python benchmarks/data_memory.py         about two minutes; writes results/data_memory.json and .md

Each data set is fed for one epoch in a process of its own (random resized crops, batches of 256, two threads), which
notes its resident set at every hundredth. Of it, "own" is memory that only this process can hold; the rest are pages of
mapped files (libraries, the index), which lie in the page cache anyway and which the system takes back when it needs
them. "Before" is after the imports. The index is what the data set's arrays, its mapped files and two epochs' orders
take. The sets are 3,000 photographs whose tars are linked 4 and 16 times: the reader opens each link as a file of its
own.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, Goal, parsed, parser, save, table
from benchmarks.photos import linked_set, photo_set

NAME = "data_memory"
MEGABYTE = 1e6
EARLY = 0.1
GROWTH = 1.05
FACTOR = 4
ARRAYS = ("key_hash", "label", "good", "shard_number", "image_offset", "image_size", "image_extension", "header_gap")
SLACK = 16.0  # MB that two processes of the same program may differ by: the allocator's arenas


def resident() -> dict[str, float]:
    """Megabytes: the resident set, and of it what is no page of a file."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kilobytes = {name: int(lines[name].split()[0]) for name in ("VmRSS", "RssAnon")}
    return {"resident": 1024 * kilobytes["VmRSS"] / MEGABYTE, "own": 1024 * kilobytes["RssAnon"] / MEGABYTE}


def epoch(directory: Path, batch: int) -> dict[str, Any]:
    """Memory over one epoch, by share of it."""
    from benchmarks.data_ours import opened

    course = [{"share": 0.0, **resident()}]
    loader, schedule = opened(directory, batch, 2)
    steps = schedule.steps_per_epoch
    marks = {max(1, round(steps * share / 100)) for share in range(1, 101)}
    for done, _ in enumerate(loader.steps(0, steps), start=1):
        if done in marks:
            course.append({"share": done / steps, **resident()})
    orders = 2 * 8 * len(loader.dataset)  # of this epoch and the next
    index = sum(getattr(loader.dataset, name).nbytes for name in ARRAYS) + orders
    files = sum(path.stat().st_size for path in directory.glob("*.index.arrow"))
    return {"samples": len(loader.dataset), "index": index / MEGABYTE, "files": files / MEGABYTE, "course": course}


def measured(directory: Path, batch: int) -> dict[str, Any]:
    """The same in another process."""
    command = [sys.executable, str(ROOT / f"benchmarks/{NAME}.py"), "--data", str(directory), "--batch", str(batch)]
    done = subprocess.run([*command, "--one"], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def at(course: Sequence[dict[str, float]], share: float, what: str) -> float:
    """Memory at a share of the epoch."""
    return min(course[bool(share) :], key=lambda mark: abs(mark["share"] - share))[what]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    made = parser(__doc__, photos=(3000, 40), times=(4, 1), batch=(256, 4))
    made.add_argument("--one", action="store_true", help="only one epoch over the set in --data, in this process")
    options = parsed(made, arguments)
    if options.one:
        print(json.dumps(epoch(options.data, options.batch)))
        return
    photos = photo_set(options.data, options.photos, 1 if options.quick else 2)
    sets = [linked_set(photos, times) for times in (options.times, FACTOR * options.times)]
    one, four = (measured(directory, options.batch) for directory in sets)
    rows, goals = [], []
    for name, found in (("1 x", one), (f"{FACTOR} x", four)):
        for what in ("resident", "own"):
            begin, early, end = (at(found["course"], share, what) for share in (0.0, EARLY, 1.0))
            shown = [f"{value:.0f}" for value in (begin, early, end)]
            rows.append([f"{name}: {found['samples']:,} samples", what, *shown, f"{end / early:.3f}"])
            goals.append(Goal(f"{name}, {what}: end of the epoch over {EARLY:.0%} of it", end / early, GROWTH, False))
    index = four["index"] + four["files"] - one["index"] - one["files"]
    for what in ("resident", "own"):
        grown = at(four["course"], 1.0, what) - at(one["course"], 1.0, what)
        goals.append(Goal(f"{what} memory grown with the data beyond the index, MB", grown - index, SLACK, False))
    head = ["data set", "memory", "before, MB", f"at {EARLY:.0%}, MB", "at the end, MB", "ratio"]
    text = [table(head, rows), f"The index of the larger set takes {index:.1f} MB more (arrays, orders, mapped files)."]
    save(NAME, options.out, {"one": one, "four": four, "index_grows_mb": index}, text, goals)


if __name__ == "__main__":
    main()
