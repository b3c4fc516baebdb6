"""How many trials of a noise-ratio sweep run at once (that they train what a shared run trains: test_jobs.py)."""

import pytest

from nml_ray.config.errors import UserError
from nml_ray.sweep.arms import concurrency


@pytest.mark.parametrize(
    ("cpus", "workers", "each", "at_once"), [(2, 1, 2, 1), (2, 1, 1, 2), (16, 2, 3, 2), (7, 1, 2, 3)]
)
def test_trials_fill_the_cluster(cpus: float, workers: int, each: int, at_once: int) -> None:
    assert concurrency(cpus, workers, each) == at_once


def test_a_trial_that_fits_nowhere_is_refused_and_not_left_pending() -> None:
    with pytest.raises(UserError, match="at least 4 CPUs"):
        concurrency(2, 2, 2)
