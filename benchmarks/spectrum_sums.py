"""SVE and LSVR of a million rows from running sums, against the singular values of 20,000 rows in memory.

    .venv/bin/python benchmarks/spectrum_sums.py    half an hour; writes results/spectrum_sums.json and .md

Rows of 2048 float32 numbers are made block by block from a keyed seed, so nothing lies on disk; making them is part of
both sides. The sums are those of `features.sums` (transform `raw`: float64 count, mean and Gram), the measures those of
`analysis.spectrum`. The 20,000 rows are the first of the million: their measures from the sums must be those of
`numpy.linalg.svd` in float64. Each of the three computes in a process of its own, whose highest memory is read at its
end.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Goal, number, parsed, parser, save, table

NAME = "spectrum_sums"
BLOCK = 4000
MEGABYTES, DIFFERENCE = 1000.0, 1e-8


@dataclass(frozen=True)
class Found:
    """The measures, and what they took: CPU-seconds, and the process's highest memory in MB."""

    sve: float
    lsvr: float
    cpu: float
    megabytes: float


def blocks(rows: int, dim: int) -> Iterator[NDArray[np.float32]]:
    """`rows` rows [., D] in blocks; directions differ in size by two orders, about a mean that is not zero."""
    scales = np.logspace(0, -2, dim, dtype=np.float32)
    for key, start in enumerate(range(0, rows, BLOCK)):
        generator = np.random.Generator(np.random.Philox(key=key))
        block = generator.standard_normal((BLOCK, dim), np.float32)
        block += 0.2
        block *= scales
        yield block[: rows - start]


def from_sums(rows: int, dim: int) -> Found:
    """By running sums."""
    from nml_ray.analysis import spectrum
    from nml_ray.features.sums import Sums

    sums = Sums(dim, ["raw"])
    for block in blocks(rows, dim):
        sums.add(block)
    return _found(spectrum.singular_values(sums.gram["raw"], sums.count))


def in_memory(rows: int, dim: int) -> Found:
    """By the singular values of all rows at once."""
    return _found(np.linalg.svd(np.concatenate(list(blocks(rows, dim))).astype(np.float64), compute_uv=False))


def _found(values: NDArray[np.float64]) -> Found:
    from nml_ray.analysis import spectrum

    return Found(spectrum.sve(values), spectrum.lsvr(values), time.process_time(), highest())


def highest() -> float:
    """The highest memory of this process so far, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def alone(function: Callable[[int, int], Found], rows: int, dim: int) -> Found:
    """In a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, rows, dim).result()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    options = parsed(parser(__doc__, rows=(1_000_000, 20_000), some=(20_000, 4000), dim=(2048, 64)), arguments)
    found = {
        f"SVD in memory, {options.some:,} rows": alone(in_memory, options.some, options.dim),
        f"running sums, {options.some:,} rows": alone(from_sums, options.some, options.dim),
        f"running sums, {options.rows:,} rows": alone(from_sums, options.rows, options.dim),
    }
    exact, few, many = found.values()
    apart = max(abs(few.sve / exact.sve - 1), abs(few.lsvr / exact.lsvr - 1))
    shown = [
        [name, f"{one.sve:.9f}", f"{one.lsvr:.9f}", number(one.megabytes), number(one.cpu)]
        for name, one in found.items()
    ]
    goals = [
        Goal(f"MB at most, {options.rows:,} rows of {options.dim}", many.megabytes, MEGABYTES, at_least=False),
        Goal("relative difference to the SVD, in units of 1e-8", apart / DIFFERENCE, 1, at_least=False),
    ]
    head = [f"D = {options.dim}", "SVE", "LSVR", "highest memory, MB", "CPU-seconds"]
    growth = (
        f"From {options.some:,} to {options.rows:,} rows the memory grows by {many.megabytes - few.megabytes:.0f} MB."
    )
    figures = {"found": {name: asdict(one) for name, one in found.items()}, "apart": apart}
    save(NAME, options.out, figures, [table(head, shown), growth], goals)


if __name__ == "__main__":
    main()
