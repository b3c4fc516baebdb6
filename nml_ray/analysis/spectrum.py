"""Singular-value spectra of feature matrices from their Grams, and the measures SVE and LSVR (paper, appendix A.4).

The features F are N x D. Their singular values are the square roots of the eigenvalues of the D x D Gram F^T F, which
was summed while the features were extracted (`features/sums.py`): no second pass over them is needed.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

ZERO_EIGENVALUE = 1e-13
"""Eigenvalues of the Gram below this share of the largest count as zero: float64 sums cannot resolve them."""


def singular_values(gram: NDArray[np.float64], count: int) -> Vector:
    """The min(N, D) singular values of `count` = N rows with uncentred Gram [D, D], descending.

    Those that the Gram does not resolve are exactly zero.
    """
    eigenvalues = np.linalg.eigvalsh(gram)[::-1][: min(count, len(gram))]
    floor = ZERO_EIGENVALUE * max(float(eigenvalues[0]), 0.0)
    return np.sqrt(np.where(eigenvalues > floor, eigenvalues, 0.0))


def of_rows(rows: NDArray[np.float64]) -> Vector:
    """The min(N, D) singular values of rows [N, D], by the smaller of their two Grams."""
    gram = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    return singular_values(gram, len(rows))


def shares(values: Sequence[float] | Vector) -> Vector:
    """p_i = sigma_i / sum of sigma.

    Raises:
        ValueError: all singular values are zero, or one is not finite: the features carry nothing to measure.
    """
    sigma = np.asarray(values, dtype=np.float64)
    total = float(sigma.sum())
    if not 0 < total < np.inf:
        raise ValueError("the features are all zero or not finite: their singular values have no shares")
    return sigma / total


def sve(values: Sequence[float] | Vector) -> float:
    """Singular value entropy, SVE = -sum p_i ln p_i, in nats. Higher: variance spread over more directions."""
    p = shares(values)
    p = p[p > 0]
    return float(-(p * np.log(p)).sum() + 0.0)


def lsvr(values: Sequence[float] | Vector) -> float:
    """Largest singular value ratio, LSVR = -ln p_1. Higher: a weaker dominant direction."""
    return float(-np.log(shares(values).max()) + 0.0)


def effective_rank(values: Sequence[float] | Vector) -> float:
    """exp(SVE): the number of equal singular values that would have this entropy."""
    return float(np.exp(sve(values)))


def measures(values: Sequence[float] | Vector) -> dict[str, float] | None:
    """SVE, LSVR and effective rank; None of features that are all zero (as one dimension is under `official`)."""
    if not np.any(values):
        return None
    return {"sve": sve(values), "lsvr": lsvr(values), "effective_rank": effective_rank(values)}
