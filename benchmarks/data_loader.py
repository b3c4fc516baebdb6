"""Whole loaders on two cores, one epoch each: images a second, against webdataset and mosaicml-streaming.

    .venv/bin/python benchmarks/data_loader.py --streaming-python PATH      about ten minutes
                                                    writes results/data_loader.json and .md

PATH is a Python with `pip install mosaicml-streaming torch torchvision`, in an environment of its own (its dependencies
clash with ours); without it that loader is recorded as not installed.

Every loader runs in a process of its own on the same two cores, from local files in the page cache, batches of 256 of
random resized crops (224, bicubic, scale 0.08 to 1) and flips, in random order. Time runs from making the iterator to
the end of the epoch, and includes the start of worker processes. The peers run in DataLoader's processes, one and two
of them, with the PIL chain, and deliver float32 [256, 3, 224, 224], normalised. Ours decodes on two threads and
delivers uint8 [256, 224, 224, 3], to be normalised on the device; a second arm makes the peers' float32 of it on the
CPU. CPU is that of the process and its workers. Ours drops the epoch's last samples, and only what it fed is counted.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.data_peers import timed, two_cores
from benchmarks.measure import ROOT, Goal, interleaved, median, number, parsed, parser, ratio, save, spread, table
from benchmarks.photos import photo_set

NAME = "data_loader"
OURS, FLOATS = "ours, uint8", "ours, float32 made on the CPU"
PEER = "{}, {} worker{}"
SPEED, CPU, FIRST = "images_per_second", "cpu_ms_per_image", "first_batch_seconds"
Figures = dict[str, Any]


def run(command: list[str]) -> Figures:
    """The figures that a loader's process prints last."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def peer(python: str, name: str, workers: int, data: Path, batch: int) -> Figures:
    """A pass of a peer's."""
    script = str(ROOT / "benchmarks/data_peers.py")
    return run([python, script, name, str(data), "--workers", str(workers), "--batch", str(batch)])


def ours(data: Path, batch: int, floats: bool) -> Figures:
    """A pass of ours, in another process."""
    command = [sys.executable, str(ROOT / f"benchmarks/{NAME}.py"), "--photos", "0", "--data", str(data)]
    return run([*command, "--batch", str(batch), "--ours", "floats" if floats else "bytes"])


def pass_of_ours(data: Path, batch: int, floats: bool) -> Figures:
    """A pass of ours, in this process."""
    from benchmarks.data_ours import epoch

    two_cores()
    return timed(lambda: epoch(data, batch, threads=2, floats=floats))


def arms(data: Path, batch: int, streaming: str | None) -> dict[str, Callable[[], Figures]]:
    """Every loader."""
    made: dict[str, Callable[[], Figures]] = {
        OURS: partial(ours, data, batch, False),
        FLOATS: partial(ours, data, batch, True),
    }
    pythons = {"webdataset": sys.executable, **({"streaming": streaming} if streaming else {})}
    for name, python in pythons.items():
        for workers in (1, 2):
            made[PEER.format(name, workers, "s" if workers > 1 else "")] = partial(
                peer, python, name, workers, data, batch
            )
    return made


def column(passes: list[Figures], what: str) -> list[float]:
    """One figure of every round."""
    return [one[what] for one in passes]


def best(results: dict[str, list[Figures]], peer_name: str) -> str:
    """The faster of a peer's arms."""
    own = [name for name in results if name.startswith(peer_name)]
    return max(own, key=lambda name: median(column(results[name], SPEED)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    made = parser(__doc__, photos=(3000, 24), rounds=(5, 1), batch=(256, 8))
    made.add_argument("--streaming-python", help="a Python that has mosaicml-streaming")
    made.add_argument("--ours", choices=("bytes", "floats"), help="only one pass of ours over the set in --data")
    options = parsed(made, arguments)
    if options.ours:
        print(json.dumps(pass_of_ours(options.data, options.batch, options.ours == "floats")))
        return
    data = photo_set(options.data, options.photos, 1 if options.quick else 2)
    loaders = arms(data, options.batch, options.streaming_python)
    if not options.quick:
        interleaved(loaders, 1)
    results = interleaved(loaders, options.rounds)
    peers = {name: best(results, name) for name in ("webdataset", "streaming")[: 2 if options.streaming_python else 1]}
    goals = [
        Goal(
            f"images a second, {own} over {peers[name]}",
            ratio(column(results[own], SPEED), column(results[peers[name]], SPEED)),
            1,
        )
        for name in peers
        for own in (OURS, FLOATS)
    ]
    base = column(results[peers["webdataset"]], SPEED)
    rows = [
        [
            name,
            *(spread(column(passes, what)) for what in (SPEED, CPU, FIRST)),
            number(ratio(column(passes, SPEED), base)),
        ]
        for name, passes in results.items()
    ]
    head = ["loader", "images/s", "CPU ms/image", "first batch, s", f"times {peers['webdataset']}"]
    missing = [] if options.streaming_python else ["mosaicml-streaming: not installed (`--streaming-python`)."]
    figures = {"photos": options.photos, "batch": options.batch, "rounds": results, "missing": missing}
    versions = {name: passes[0]["versions"] for name, passes in results.items() if "versions" in passes[0]}
    said = [f"{name}: " + ", ".join(f"{k} {v}" for k, v in versions[one].items()) for name, one in peers.items()]
    save(NAME, options.out, figures, [table(head, rows), *missing, *said], goals)


if __name__ == "__main__":
    main()
