"""The pretrain stage, in process: each arm comes to its own end."""

import pytest

from nml_ray.config.errors import UserError
from nml_ray.data.config import NoiseSettings
from nml_ray.data.shards import Sample, write_shards
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.storage.artifact import Store
from nml_ray.study.job import RunSettings
from nml_ray.study.stage import Stage
from nml_ray.study.stages import pretrain
from nml_ray.study.task import Context, Task
from tests.small_images import picture

pytestmark = pytest.mark.long

RECIPE = {
    "encoder": {"width": 2, "channels": 1, "size": 12},
    "epochs": 1,
    "batch": 16,
    "augmentation": {"kind": "shift", "pixels": 1},
}


@pytest.fixture
def shards(tmp_path):
    made = Store(tmp_path).attempt("shards", "s")
    samples = [Sample(f"sample-{i:02d}", picture(i, "png", (12, 12)), "png", label=i % 2) for i in range(40)]
    write_shards(samples, made.path / "pretrain", samples_per_shard=40, classes=["a", "b"])
    return made.finish()


def test_an_arm_that_cannot_be_finished_leaves_the_others_to_their_end(tmp_path, shards):
    store = Store(tmp_path)
    recipe = PretrainSettings.model_validate(RECIPE).model_dump(mode="json")
    tasks = []
    for arm in NoiseSettings(ratios=("0", "0.1", "0.3")).arms():
        settings = {"noise": arm.hashed(), "pretrain": recipe, "seed": 0}
        stage = Stage(arm.name, "pretrain", 1, settings, "nml_ray.study.stages.pretrain:run", {"shards": "shards"})
        tasks.append(Task(stage, {"shards": shards}, store.attempt("pretrain", f"arm-{arm.ratio}")))
    (store.directory("pretrain", "arm-0.1") / "record.json").mkdir()  # its record cannot be written
    with pytest.raises(UserError, match=r"arm-0\.1/record\.json: is no record of an artifact .*Is a directory"):
        pretrain.run(tasks, Context(store, True, 1, RunSettings(), lambda: None))
    assert all(store.artifact("pretrain", f"arm-{ratio}") for ratio in ("0", "0.3"))
