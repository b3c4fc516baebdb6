"""The store of features against Parquet float16: write, read, and shuffled gathers.

    .venv/bin/python benchmarks/feature_store.py    about two minutes; writes results/feature_store.json and .md

20,000 rows of 2048 float16 numbers with keys and labels, half of the numbers zero as behind a ReLU, in one file: ours
by `features.store`, Parquet by pyarrow, uncompressed (its fastest) and as it compresses by default. Read is what a fit
begins with: the file opened and every number in use, which here adds them up as words; ours maps the file, so that is
where its pages are touched. Gather is an epoch of batches of 64 shuffled rows from the closed file: ours out of the
map, Parquet's out of the table that was read whole; what does not fit into memory has to be read by row groups (of 1000
rows, a group for a row), which is measured on some batches and counted for the epoch. The page cache is warm; times are
CPU-seconds of this process.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.measure import Goal, interleaved, number, parsed, parser, ratio, save, spread, table
from nml_ray.features.store import read_shard, write_shard

NAME = "feature_store"
BATCH, GROUP = 64, 1000
GOAL = 10.0

Rows = NDArray[np.float16]


def features(rows: int, dim: int) -> tuple[list[str], NDArray[np.int64], Rows]:
    """Keys, labels and features [N, D]."""
    generator = np.random.default_rng(0)
    values = np.maximum(generator.standard_normal((rows, dim), np.float32), 0).astype(np.float16)
    return [f"sample-{row:08d}" for row in range(rows)], generator.integers(0, 1000, rows), values


def write_parquet(
    path: Path, keys: list[str], labels: NDArray[np.int64], values: Rows, compression: str = "NONE"
) -> None:
    """One file with the same three columns."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    made = pa.table({"key": keys, "label": labels, "features": column})
    pq.write_table(made, path, compression=compression, row_group_size=GROUP)


def matrix(read: pa.Table) -> Rows:
    """The features of a Parquet table, [N, D]."""
    flat = read["features"].combine_chunks().flatten().to_numpy()
    return flat.reshape(len(read), -1)


def used(values: Rows) -> int:
    """Every number is looked at, at the memory's pace: two bytes each, four numbers a word."""
    return int(values.view(np.uint64).sum(dtype=np.uint64))


def gathered(values: Rows, order: NDArray[np.int64]) -> int:
    """An epoch of batches, each copied together."""
    return sum(len(values[order[start : start + BATCH]]) for start in range(0, len(order), BATCH))


def gathered_by_group(path: Path, order: NDArray[np.int64]) -> int:
    """Batches out of a file whose groups are read for them, each group once a batch."""
    file, taken = pq.ParquetFile(path), 0
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        for group in np.unique(rows // GROUP):
            taken += len(
                matrix(file.read_row_group(int(group), columns=["features"]))[rows[rows // GROUP == group] % GROUP]
            )
    return taken


def spent(run: Callable[[], object], times: int = 1) -> float:
    """CPU-seconds of a run, if it has to be done `times` as often."""
    began = time.process_time()
    run()
    return (time.process_time() - began) * times


def measure(directory: Path, rows: int, dim: int, rounds: int, batches: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each form by what is done, by round."""
    keys, labels, values = features(rows, dim)
    ours, plain, packed = (directory / name for name in ("ours.arrow", "plain.parquet", "packed.parquet"))
    order = np.random.default_rng(1).permutation(rows)[: rows // BATCH * BATCH]
    batches = min(batches, len(order) // BATCH)
    some, factor = order[: batches * BATCH], len(order) / (batches * BATCH)
    write = {
        "ours": lambda: spent(lambda: write_shard(ours, keys, labels, values, "float16")),
        "Parquet": lambda: spent(lambda: write_parquet(plain, keys, labels, values)),
        "Parquet, snappy": lambda: spent(lambda: write_parquet(packed, keys, labels, values, "snappy")),
    }
    read = {
        "ours": lambda: spent(lambda: used(read_shard(ours).values)),
        "Parquet": lambda: spent(lambda: used(matrix(pq.read_table(plain)))),
        "Parquet, snappy": lambda: spent(lambda: used(matrix(pq.read_table(packed)))),
    }
    gather = {
        "ours": lambda: spent(lambda: gathered(read_shard(ours).values, order)),
        "Parquet": lambda: spent(lambda: gathered(matrix(pq.read_table(plain)), order)),
        "Parquet, snappy": lambda: spent(lambda: gathered(matrix(pq.read_table(packed)), order)),
        "Parquet by row groups": lambda: spent(lambda: gathered_by_group(plain, some), factor),
    }
    interleaved(write, 1)  # both are warm
    found = {"write": interleaved(write, rounds), "read": interleaved(read, rounds)}
    if not used(read_shard(ours).values) == used(matrix(pq.read_table(plain))) == used(values):
        raise RuntimeError("what was read is not what was written")
    return {**found, "gather": interleaved(gather, rounds)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    made = parser(__doc__, rows=(20000, 2000), dim=(2048, 64), rounds=(3, 1), batches=(1, 1))
    options = parsed(made, arguments)
    pa.set_cpu_count(1)
    options.data.mkdir(parents=True, exist_ok=True)
    directory = Path(mkdtemp(dir=options.data))
    try:
        found = measure(directory, options.rows, options.dim, options.rounds, options.batches)
        sizes = {path.name: path.stat().st_size for path in sorted(directory.iterdir())}
    finally:
        shutil.rmtree(directory)
    rows = [
        [what, name, spread(values), number(ratio(values, arms["ours"]))]
        for what, arms in found.items()
        for name, values in arms.items()
    ]
    goals = [
        Goal(f"{what}: CPU of uncompressed Parquet over ours", ratio(arms["Parquet"], arms["ours"]), GOAL)
        for what, arms in found.items()
    ]
    head = ["", "form", "CPU-seconds: median (lowest..highest)", "times ours"]
    save(NAME, options.out, {"seconds": found, "bytes": sizes}, [table(head, rows)], goals)


if __name__ == "__main__":
    main()
