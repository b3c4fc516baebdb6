"""Data, and finished runs over it, that the tests of the audit share."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nml_ray.data.dataset_info import read_info, save_info
from nml_ray.data.shards import write_shards
from tests.pretrain.audit.audited import BROKEN, EXCLUDED, finish, plan_over, train
from tests.pretrain.conftest import CLASSES, group_plan, tiny_samples


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """203 samples: one known to be undecodable, two that turn out so."""
    directory = tmp_path_factory.mktemp("broken")
    write_shards(tiny_samples(203, BROKEN), directory, samples_per_shard=60, classes=CLASSES)
    save_info(directory, read_info(directory).model_copy(update={"known_bad": (EXCLUDED,)}))
    return directory


@pytest.fixture(scope="session")
def clean(data, tmp_path_factory):
    """The store of an undisturbed run; not to be changed."""
    plan = plan_over(tmp_path_factory.mktemp("clean") / "store", data)
    return finish(plan, train(plan))


@pytest.fixture
def store(clean, tmp_path):
    """A copy to tamper with."""
    return Path(shutil.copytree(clean, tmp_path / "store"))


@pytest.fixture(scope="session")
def repeated(data, tmp_path_factory):
    """The store of a run with repeated augmentation, every sample twice; not to be changed."""
    root = tmp_path_factory.mktemp("repeated") / "store"
    plan = replace(group_plan(root, data, ("0.3",), epochs=2, repeats=2), undecodable_limit=0.1)
    return finish(plan, train(plan))


@pytest.fixture
def copies(repeated, tmp_path):
    """A copy to tamper with."""
    return Path(shutil.copytree(repeated, tmp_path / "store"))
