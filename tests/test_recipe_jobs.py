"""The recipes: each is valid, planned on a synthetic index, and run to its end at small size on a stand-in."""

import json
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from nml_ray.cli.main import call
from nml_ray.data.shards import Sample, write_shards
from nml_ray.study.job import read_job
from nml_ray.study.listing import paths_of
from tests.small_icons import small_icons
from tests.small_images import picture

pytestmark = pytest.mark.long

RECIPES = Path(__file__).parents[1] / "jobs" / "recipes"
IMAGENET = ("a1", "a2", "a3", "resnet50_90")
CLASSES = ["cat", "dog", "owl"]
SMALL = (
    *('pretrain.encoder={name: "timm:resnet10t", size: 32}', "pretrain.epochs=2", "pretrain.microbatch=12"),
    *("threads=1", "run.workers=1", "run.decode_threads=1", "run.device=cpu"),
)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory) -> str:
    """The setting `data.shards` for a few photographs."""
    root = tmp_path_factory.mktemp("stand-in")
    for split, count in (("pretrain", 72), ("pretrain_validation", 21)):
        pictures = [Sample(f"{split}-{n}", picture(n, size=(40, 36)), "jpg", n % 3) for n in range(count)]
        write_shards(pictures, root / split, samples_per_shard=40, classes=CLASSES)
    return "data.shards=" + json.dumps({split: str(root / split) for split in ("pretrain", "pretrain_validation")})


def options(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_says_how_it_is_run(path):
    job, _ = read_job(path)
    assert job.name == path.stem
    header = path.read_text().split("\n\nname:")[0]
    for words in (f"nml-ray run jobs/recipes/{path.name}", "# Hardware:", "Time:", "# Result:"):
        assert words in header
    assert all(words in header for words in (("published", "measured here") if path.stem in IMAGENET else ()))


@pytest.mark.parametrize("name", IMAGENET)
def test_an_imagenet_recipe_is_planned_and_runs_on_a_stand_in(name, stand_in, tmp_path, capsys):
    train_size = ("pretrain.train_size=24",) if name == "a3" else ()
    small = options(stand_in, *SMALL, *train_size, "pretrain.batch=24", "noise.ratios=[0,0.3]")
    job = [str(RECIPES / f"{name}.yaml"), *small, "--storage", str(tmp_path)]
    assert call(["plan", *job]) == 0
    assert "pretrain" in capsys.readouterr().out
    assert call(["run", *job, "--inline"]) == 0
    study = tmp_path / "studies" / name
    arms = [path for stage, path in paths_of(study).items() if stage.startswith("pretrain/")]
    assert len(arms) == 2
    for arm in arms:
        rows = parquet.read_table(arm / "curves.parquet").to_pylist()
        assert [0 <= row["validation_accuracy"] <= 1 for row in rows] == [True, True]
        assert np.isfinite([row["loss_clean"] for row in rows]).all()
        settings = json.loads((arm / "encoder.json").read_text())["settings"]
        assert settings["size"] == 32


def test_the_small_recipe_runs_on_a_cut_of_the_icons(tmp_path):
    icons = small_icons(tmp_path / "icons")
    small = ("threads=1", "pretrain.encoder.width=2", "pretrain.epochs=1", "pretrain.batch=128", "heads.seeds=[0]")
    job = [str(RECIPES / "small_cpu.yaml"), *options(icons, *small), "--storage", str(tmp_path / "runs")]
    assert call(["run", *job, "--inline"]) == 0
    assert (tmp_path / "runs/studies/small_cpu/report.html").exists()
