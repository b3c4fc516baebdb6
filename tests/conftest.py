"""What every test run shares."""

import os
import sys

import pytest
from hypothesis import settings

# Before numpy and torch are imported: many small tests on few cores; what a test computes with more, it says itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test depends on the speed of the machine, and every run tries the same examples.
settings.register_profile("same-everywhere", deadline=None, derandomize=True, database=None)
settings.load_profile("same-everywhere")


pytest_plugins = ["tests.object_store", "tests.kuberay_schemas", "tests.kubernetes_server"]


@pytest.fixture(scope="session")
def shared_ray() -> None:
    """Ray with 2 CPUs, started by the first test that asks and shared by all later ones of the run."""
    from nml_ray import session

    session.start(cpus=2)


def pytest_sessionfinish() -> None:
    """Nothing of Ray outlives the run."""
    if "nml_ray.session" in sys.modules:
        sys.modules["nml_ray.session"].stop()
