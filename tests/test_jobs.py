"""Every shipped job, run through the command line at small size on a few hundred of the real icons."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from nml_ray.cli.main import call
from nml_ray.cli.options import open_job
from nml_ray.study.execute import execute
from nml_ray.study.listing import paths_of
from nml_ray.study.progress import display
from tests.small_icons import SIZES, small_icons

JOBS = Path(__file__).parents[1] / "jobs"
SMALL = ("threads=1", "pretrain.encoder.width=2", "pretrain.epochs=1", "pretrain.batch=128")
ONE_SEED = ("heads.seeds=[0]",)


@pytest.fixture(scope="module")
def icons(tmp_path_factory) -> str:
    """The setting `data` for a cut of the icons that keeps every split."""
    return small_icons(tmp_path_factory.mktemp("icons"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """One storage for all jobs, as a user has."""
    return tmp_path_factory.mktemp("runs")


def run(runs: Path, name: str, *settings: str) -> dict[str, Path]:
    """Run a shipped job with settings changed, without Ray; its artifacts by stage."""
    options = [word for setting in settings for word in ("--set", setting)]
    assert call(["run", str(JOBS / f"{name}.yaml"), *options, "--storage", str(runs), "--inline"]) == 0
    study = runs / "studies" / name
    return paths_of(study)


def states(capsys, runs: Path, name: str, *settings: str) -> str:
    """The closing line of `nml-ray plan`."""
    options = [word for setting in settings for word in ("--set", setting)]
    capsys.readouterr()
    assert call(["plan", str(JOBS / f"{name}.yaml"), *options, "--storage", str(runs)]) == 0
    return capsys.readouterr().out.splitlines()[-1]


@pytest.mark.long
def test_demo_then_another_ratio(runs, icons, capsys):
    small = (icons, *SMALL, *ONE_SEED)
    made = run(runs, "demo", *small)
    assert {stage.split("/")[0] for stage in made} >= {"ledger", "pretrain", "extract", "spectrum", "heads", "report"}
    page = (runs / "studies/demo/report.html").read_text()
    assert all(word in page for word in ("NMTune", "SVE", "LSVR"))
    said = capsys.readouterr().out
    assert "wrong labels in pre-training" in said
    assert str(runs / "studies/demo/report.html") in said
    assert call(["report", str(runs / "studies/demo"), "--tables"]) == 0
    assert (runs / "studies/demo/tables.txt").read_text().strip() in capsys.readouterr().out

    assert " to do" not in states(capsys, runs, "demo", *small)
    more = (*small, "noise.ratios=[0,0.1,0.3,0.5]")
    before = {path.name for path in (runs / "pretrain").iterdir()}
    run(runs, "demo", *more)
    assert len({path.name for path in (runs / "pretrain").iterdir()} - before) == 1


@pytest.mark.long
def test_icons(runs, icons):
    made = run(runs, "icons", icons, *SMALL, *ONE_SEED, "pretrain.seeds=[0,1]", "noise.ratios=[0,0.3]")
    assert len([stage for stage in made if stage.startswith("pretrain/")]) == 4
    assert (runs / "studies/icons/report.html").exists()


@pytest.mark.long
def test_ratio_sweep(runs, icons):
    made = run(runs, "ratio_sweep", icons, *SMALL, "noise.ratios=[0,0.4]")
    assert len([stage for stage in made if stage.startswith("pretrain/")]) == 4


@pytest.mark.long
def test_sweep_random(runs, icons, capsys):
    run(runs, "sweep_random", icons, *SMALL, *ONE_SEED, "sweep.trials=3")
    trials = pq.read_table(runs / "studies/sweep_random/trials.parquet").to_pylist()
    assert [trial["status"] for trial in trials] == ["finished"] * 3
    assert sum(trial["best"] for trial in trials) == 1
    assert "the best of 3 trials" in (runs / "studies/sweep_random/report.html").read_text()
    assert " to do" not in states(capsys, runs, "sweep_random", icons, *SMALL, *ONE_SEED, "sweep.trials=3")
    assert call(["audit", str(runs / "studies/sweep_random")]) == 0
    assert capsys.readouterr().out.count("pretrain/symmetric") >= 3


@pytest.mark.long
def test_pretrain(runs, icons):
    made = run(runs, "pretrain", icons, *SMALL)
    assert [stage.split("/")[0] for stage in made].count("pretrain") == 2
    for stage, path in made.items():
        if stage.startswith("pretrain/"):
            assert {"encoder.safetensors", "encoder.json", "curves.parquet", "fed"} <= {p.name for p in path.iterdir()}


@pytest.mark.long
def test_extract(runs, icons):
    encoder = 'encoders=[{name: "timm:resnet10t", size: 32}]'
    made = run(runs, "extract", icons, encoder, "threads=1")
    (features,) = [path for stage, path in made.items() if stage.startswith("extract/")]
    assert {path.parent.name for path in features.glob("*/*.features.arrow")} == set(SIZES) - {"pretrain"}


@pytest.mark.long
def test_heads_sweep(runs, tmp_path):
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(5, 12))
    files = []
    for split in ("train", "validation", "test"):
        labels = generator.integers(0, 5, 128)
        features = centres[labels] + generator.normal(size=(128, 12))
        np.savez(tmp_path / f"{split}.npz", labels=labels, features=features.astype(np.float32))
        files.append(f"features.{split}={tmp_path / split}.npz")
    made = run(runs, "heads_sweep", *files, *ONE_SEED)
    (heads,) = [path for stage, path in made.items() if stage.startswith("heads/")]
    scores = json.loads((heads / "results.json").read_text())
    assert {score["head"] for score in scores} >= {"linear_probe", "mlp"}
    assert all(score["scores"]["test"]["accuracy"] > 0.5 for score in scores)


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize("name", ["demo", "ratio_sweep"])
def test_ray_makes_the_weights_of_inline(runs, icons, tmp_path, name):
    settings = (icons, *SMALL, *ONE_SEED, "pretrain.seeds=[0]", "noise.ratios=[0,0.3]", "run.cpus=2")
    alone = run(runs, name, *settings)
    done = execute(open_job(str(JOBS / f"{name}.yaml"), settings, str(tmp_path)), display())
    assert done.outcome.failures == {}
    made = {stage: artifact.path for stage, artifact in done.outcome.artifacts.items()}
    assert set(made) == set(alone)
    encoders = [stage for stage in made if stage.startswith("pretrain/")]
    assert len(encoders) == 2
    for stage in encoders:
        file = "encoder.safetensors"
        assert (made[stage] / file).read_bytes() == (alone[stage] / file).read_bytes()
