"""Raw samples out of tars: process CPU per sample, against webdataset and tarfile.

    .venv/bin/python benchmarks/data_reading.py            about two minutes; writes results/data_reading.json and .md

Every reader hands over each image's encoded bytes, as bytes of its own (a copy), from tars that lie in the page cache;
nothing is decoded. webdataset and tarfile walk the tars and so hand over the labels too. Ours reads as the loader does:
the image's bytes by their place in the index, and the key's hash from the tar's own header, for the audit; labels lie
in the index, already in memory. Opening the index is a cost of its own, paid once: it stands below the table. The
first pass begins with nothing open; a second pass is what later epochs are. The last arms are floors: what copying the
bytes costs by itself, by a system call, out of a tar mapped anew, whose pages are touched for the first time, and out
of one that has been touched before (its pages then count as the process's memory).
"""

import mmap
import os
import random
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import webdataset

from benchmarks.measure import Goal, interleaved, median, number, parsed, parser, ratio, save, spread, table
from benchmarks.photos import photo_set, tars
from nml_ray.data.dataset import Dataset
from nml_ray.data.reader import ShardReader

NAME = "data_reading"
PEER = "webdataset"
SHUFFLE = 1000  # samples of its buffer, as its documentation has it


def from_webdataset(paths: list[str], buffer: int = 0) -> int:
    """Bytes of all images."""
    samples = webdataset.WebDataset(paths, shardshuffle=False)
    if buffer:
        samples = samples.shuffle(buffer, rng=random.Random(0))
    return sum(len(sample["jpg"]) for sample in samples)


def from_tarfile(paths: list[str], mode: str) -> int:
    """Bytes of all images."""
    total = 0
    for path in paths:
        with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
            for member in tar:
                data = tar.extractfile(member).read()
                total += len(data) if member.name.endswith(".jpg") else 0
    return total


def from_ours(dataset: Dataset, numbers: Iterable[int], reader: ShardReader | None = None) -> int:
    """Bytes of all images; their keys' hashes as the tars' headers have them."""
    reader = reader or ShardReader(dataset)
    total = 0
    for sample in numbers:
        total += len(reader.read_hashed(sample)[0])
    return total


def copied(dataset: Dataset, numbers: Iterable[int], source: Callable[[int, int, int], bytes]) -> int:
    """Bytes of all images from `source(shard, offset, size)`, places looked up in plain lists."""
    shards, offsets, sizes = (
        part.tolist() for part in (dataset.shard_number, dataset.image_offset, dataset.image_size)
    )
    return sum(len(source(shards[sample], offsets[sample], sizes[sample])) for sample in numbers)


def out_of_fresh_maps(files: list[int], dataset: Dataset, numbers: Iterable[int]) -> int:
    """Bytes of all images; nothing is mapped before, nor after."""
    maps = [mmap.mmap(file, 0, access=mmap.ACCESS_READ) for file in files]
    return copied(dataset, numbers, lambda shard, at, size: maps[shard][at : at + size])


def floors(directory: Path, dataset: Dataset, numbers: list[int]) -> dict[str, Callable[[], int]]:
    """The cheapest ways to a copy of each image's bytes."""
    files = [os.open(path, os.O_RDONLY) for path in tars(directory)]
    maps = [mmap.mmap(file, 0, access=mmap.ACCESS_READ) for file in files]
    return {
        "floor: pread alone": partial(
            copied, dataset, numbers, lambda shard, at, size: os.pread(files[shard], size, at)
        ),
        "floor: copy out of a fresh map": partial(out_of_fresh_maps, files, dataset, numbers),
        "floor: copy out of a warm map": partial(
            copied, dataset, numbers, lambda shard, at, size: maps[shard][at : at + size]
        ),
    }


def seconds(read: Callable[[], int], expected: int) -> float:
    """Process CPU seconds of one pass over all samples."""
    began = time.process_time()
    total = read()
    spent = time.process_time() - began
    assert total == expected, f"{total} bytes, not {expected}"
    return spent


def measure(directory: Path, rounds: int) -> dict[str, list[float]]:
    """Microseconds of CPU per sample of each reader, by round."""
    paths, dataset = tars(directory), Dataset.open(directory)
    count, expected = len(dataset), int(dataset.image_size.sum())
    order = np.random.default_rng(0).permutation(count).tolist()
    readers: dict[str, Callable[[], int]] = {
        PEER: partial(from_webdataset, paths),
        f"webdataset, shuffle({SHUFFLE})": partial(from_webdataset, paths, SHUFFLE),
        "tarfile r|": partial(from_tarfile, paths, "r|"),
        "tarfile r:": partial(from_tarfile, paths, "r:"),
        "ours, in order": partial(from_ours, dataset, range(count)),
        "ours, random order": partial(from_ours, dataset, order),
        "ours, random order, later epochs": partial(from_ours, dataset, order, ShardReader(dataset)),
        **floors(directory, dataset, order),
    }
    arms = {name: partial(seconds, read, expected) for name, read in readers.items()}
    interleaved(arms, 1)  # the page cache and the allocator are warm from here on
    return {name: [1e6 * s / count for s in spent] for name, spent in interleaved(arms, rounds).items()}


def opening(directory: Path, rounds: int) -> float:
    """Seconds to open the data set's index."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        Dataset.open(directory)
        times.append(time.perf_counter() - began)
    return median(times)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    options = parsed(parser(__doc__, photos=(3000, 24), rounds=(9, 1)), arguments)
    directory = photo_set(options.data, options.photos, 1 if options.quick else 2)
    micros = measure(directory, options.rounds)
    rows = [[name, spread(values), number(ratio(micros[PEER], values))] for name, values in micros.items()]
    opened = opening(directory, options.rounds)
    goals = [
        Goal(f"CPU per sample, {PEER} over {name}", ratio(micros[PEER], micros[name]), 10)
        for name in micros
        if name.startswith("ours")
    ]
    figures = {"photos": options.photos, "micros_per_sample": micros, "open_index_seconds": opened}
    head = ["reader", "CPU per sample, us: median (lowest..highest)", f"times less than {PEER}"]
    text = [table(head, rows), f"Opening the index of {options.photos} samples, once: {1000 * opened:.1f} ms."]
    save(NAME, options.out, figures, text, goals)


if __name__ == "__main__":
    main()
