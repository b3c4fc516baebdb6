"""Running sums of features: count, mean and Gram in float64 under named transforms (CONTRACTS, Spectra).

SVE, LSVR and the whole spectrum follow from the Gram, so no second pass over the features is needed.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from nml_ray.storage.atomic import aside_of

if TYPE_CHECKING:
    from torch import Tensor


def raw(rows: "Tensor") -> "Tensor":
    """The values themselves."""
    return rows


def official(rows: "Tensor") -> "Tensor":
    """Rows L2-normalised, then centred within each row, as the authors' code does before it takes singular values."""
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return rows - rows.mean(dim=1, keepdim=True)


TRANSFORMS: dict[str, Callable[["Tensor"], "Tensor"]] = {"raw": raw, "official": official}


class Sums:
    """Count, mean [D] and Gram X^T X [D, D] of rows seen so far, in float64, one pair per named transform.

    The products run in torch, so that `torch.set_num_threads` alone decides how they are summed: equal rows added in
    equal portions give equal bits.
    """

    def __init__(self, dim: int, transforms: Iterable[str] = ("raw", "official")) -> None:
        self.dim = dim
        self.count = 0
        self.mean: dict[str, NDArray[np.float64]] = {name: np.zeros(dim) for name in transforms}
        self._upper: dict[str, NDArray[np.float64]] = {name: np.zeros((dim, dim)) for name in self.mean}
        self._product: Tensor | None = None

    @property
    def transforms(self) -> tuple[str, ...]:
        return tuple(self.mean)

    @property
    def gram(self) -> dict[str, NDArray[np.float64]]:
        """The Gram of each transform, symmetric to the last bit."""
        return {name: symmetric(matrix) for name, matrix in self._upper.items()}

    def add(self, values: NDArray[np.floating]) -> None:
        """Take in rows [N, D] as they are stored (float16 or float32)."""
        import torch

        if not len(values):
            return
        rows = torch.tensor(np.ascontiguousarray(values), dtype=torch.float64)
        self.count += len(rows)
        if self._product is None:
            self._product = rows.new_empty(self.dim, self.dim)
        for name in self.mean:
            changed = TRANSFORMS[name](rows)
            self.mean[name] += (changed.mean(dim=0).numpy() - self.mean[name]) * (len(rows) / self.count)
            self._upper[name] += torch.mm(changed.T, changed, out=self._product).numpy()

    def merge(self, other: "Sums") -> None:
        """Take in the rows that another object has seen; its transforms must include all of ours."""
        if not other.count:
            return
        self.count += other.count
        for name in self.mean:
            self.mean[name] += (other.mean[name] - self.mean[name]) * (other.count / self.count)
            self._upper[name] += other._upper[name]

    def remove(self, other: "Sums") -> None:
        """Take out rows that were taken in before and that another object has seen too; some must be left."""
        self.count -= other.count
        for name in self.mean:
            self.mean[name] += (self.mean[name] - other.mean[name]) * (other.count / self.count)
            self._upper[name] -= other._upper[name]

    def save(self, path: Path) -> None:
        """Write aside and rename. Of each Gram the upper triangle is kept."""
        upper = np.triu_indices(self.dim)
        arrays: dict[str, Any] = {
            "count": np.array(self.count),
            "dim": np.array(self.dim),
            "transforms": np.array(self.transforms),
        }
        for name in self.mean:
            arrays[f"{name}.mean"] = self.mean[name]
            arrays[f"{name}.gram"] = self._upper[name][upper]
        aside = aside_of(path)
        with open(aside, "wb") as file:
            np.savez(file, **arrays)
        os.replace(aside, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        with np.load(path, allow_pickle=False) as arrays:
            sums = cls(int(arrays["dim"]), [str(name) for name in arrays["transforms"]])
            sums.count = int(arrays["count"])
            upper = np.triu_indices(sums.dim)
            for name in sums.mean:
                sums.mean[name] = arrays[f"{name}.mean"]
                sums._upper[name][upper] = arrays[f"{name}.gram"]
        return sums


def symmetric(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The upper triangle mirrored into the lower one."""
    upper = np.triu(matrix)
    return upper + np.triu(matrix, 1).T


def merged(paths: Iterable[Path]) -> Sums:
    """The sums of several files together, in the order given. At least one path."""
    first, *rest = paths
    total = Sums.load(first)
    for path in rest:
        total.merge(Sums.load(path))
    return total
