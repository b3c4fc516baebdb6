"""SVE and LSVR from running sums, against numpy's singular value decomposition of the whole matrix."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from nml_ray.analysis import spectrum
from nml_ray.analysis.config import SpectrumSettings
from nml_ray.features.sums import Sums


def features(rows: int, dim: int, seed: int = 0) -> NDArray[Any]:
    generator = np.random.default_rng(seed)
    return np.maximum(generator.normal(0.3, 1, (rows, dim)) * generator.gamma(1, 1, dim), 0).astype(np.float32)


def by_svd(values: NDArray[Any], transform: str) -> NDArray[Any]:
    matrix = values.astype(np.float64)
    if transform == "official":
        matrix = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
        matrix = matrix - matrix.mean(axis=1, keepdims=True)
    sigma = np.linalg.svd(matrix, compute_uv=False)
    return np.where(sigma**2 > spectrum.ZERO_EIGENVALUE * sigma[0] ** 2, sigma, 0)


@pytest.mark.parametrize("transform", ["raw", "official"])
@pytest.mark.parametrize(("rows", "dim"), [(300, 24), (40, 64), (32, 32)])
def test_spectrum_equals_singular_value_decomposition(transform: str, rows: int, dim: int) -> None:
    values = features(rows, dim)
    sums = Sums(dim)
    for batch in np.array_split(values, 7):
        sums.add(batch)
    found = spectrum.singular_values(sums.gram[transform], sums.count)
    expected = by_svd(values, transform)
    assert found.shape == (min(rows, dim),)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9 * expected[0])
    p = expected / expected.sum()
    assert spectrum.lsvr(found) == pytest.approx(-np.log(p[0]), rel=1e-9)
    assert spectrum.sve(found) == pytest.approx(-(p[p > 0] * np.log(p[p > 0])).sum(), rel=1e-7)


def test_known_spectra() -> None:
    equal = [2.0] * 8
    assert spectrum.sve(equal) == pytest.approx(np.log(8))
    assert spectrum.lsvr(equal) == pytest.approx(np.log(8))
    assert spectrum.effective_rank(equal) == pytest.approx(8)
    assert spectrum.sve([5.0, 0.0]) == 0 and spectrum.lsvr([5.0, 0.0]) == 0


def test_features_of_zeros_are_refused_not_scored() -> None:
    with pytest.raises(ValueError, match="all zero"):
        spectrum.sve(spectrum.singular_values(np.zeros((3, 3)), 4))


def test_settings_name_each_transform_once() -> None:
    assert SpectrumSettings().transforms == ("raw", "official")
    for wrong in (["raw", "raw"], [], ["centred"]):
        with pytest.raises(ValidationError):
            SpectrumSettings.model_validate({"transforms": wrong})
