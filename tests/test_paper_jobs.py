"""The paper's jobs: planned as they stand on data in as many shards, and run to their end at small size on them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from nml_ray.cli.main import call
from nml_ray.data.shards import Sample, write_shards
from nml_ray.study.job import read_job
from nml_ray.study.listing import paths_of
from tests.small_images import picture

pytestmark = pytest.mark.long

PAPER = Path(__file__).parents[1] / "jobs" / "paper"
RATIOS = ("0", "0.05", "0.1", "0.2", "0.3")
TABLE_3 = {
    "paper_in1k": "79.96 79.18 78.61 76.27 73.11",
    "paper_yfcc15m": "32.64 30.86 29.54 27.72 26.53",
}
CLASSES = tuple(f"class {number}" for number in range(1000))
SHARDS = {"paper_in1k": 146, "paper_yfcc15m": 1500}
EACH = {"paper_in1k": 14, "paper_yfcc15m": 2}  # samples of a shard: no fewer than a batch in all
DOWNSTREAM = {"train": 96, "validation": 48, "test": 48, "ood": 30}
SMALL = (
    *(
        "pretrain.encoder={name: small_resnet, width: 2, size: 16}",
        "pretrain.epochs=1",
        "pretrain.optimiser.warmup_epochs=0",
    ),
    *("threads=1", "run.workers=1", "run.decode_threads=1", "run.device=cpu", "noise.ratios=[0,0.3]"),
    *("heads.seeds=[0]", "extract.batch=64"),
)
OWN = {
    "paper_in1k": ("pretrain.batch=1020", "pretrain.microbatch=510"),
    "paper_yfcc15m": ("pretrain.batch=1500", "pretrain.microbatch=1500", 'pretrain.clip.zero_shot.templates=["{}"]'),
}
"""Settings that make a job as large as its stand-in."""


def write(directory: Path, split: str, count: int, each: int, classes: tuple[str, ...], captions: bool = False) -> str:
    """A split of small photographs in shards of `each`; where it lies."""
    images = [picture(number, size=(20, 18)) for number in range(8)]
    samples = [
        Sample(
            f"{split}-{n}",
            images[n % 8],
            "jpg",
            None if captions else n % len(classes),
            f"picture {n} of wave {n % 8}" if captions else None,
        )
        for n in range(count)
    ]
    write_shards(samples, directory / split, samples_per_shard=each, classes=() if captions else classes)
    return str(directory / split)


@pytest.fixture(scope="module")
def downstream(tmp_path_factory) -> dict[str, str]:
    """The splits of a small downstream task, and of ImageNet's validation."""
    root = tmp_path_factory.mktemp("downstream")
    made = {split: write(root, split, count, 32, CLASSES[:3]) for split, count in DOWNSTREAM.items()}
    return {**made, "pretrain_validation": write(root, "pretrain_validation", 60, 30, CLASSES)}


@pytest.fixture(scope="module", params=sorted(SHARDS))
def job(request, downstream, tmp_path_factory) -> tuple[str, dict[str, str]]:
    """A job's name and its data: pre-training images in as many shards as the real ones."""
    name, root = request.param, tmp_path_factory.mktemp(request.param)
    captions = name == "paper_yfcc15m"
    return name, {
        "pretrain": write(root, "pretrain", SHARDS[name] * EACH[name], EACH[name], CLASSES, captions),
        **downstream,
    }


def words(name: str, data: dict[str, str], storage: Path, *settings: str) -> list[str]:
    chosen = [f"data.shards={json.dumps(data)}", *settings]
    options = [word for setting in chosen for word in ("--set", setting)]
    return [str(PAPER / f"{name}.yaml"), *options, "--storage", str(storage)]


def planned(capsys, *arguments: str) -> dict[str, str]:
    """Stages that `plan` lists, with their digests, and what it says besides by name."""
    capsys.readouterr()
    assert call(["plan", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    stages = {line.split()[0]: line.split("/")[-1] for line in lines if re.search(r"/[0-9a-f]{16,}$", line)}
    return stages | dict(line.split(": ", 1) for line in lines if line.startswith("samples: "))


@pytest.mark.parametrize("name", sorted(SHARDS))
def test_a_paper_job_names_the_paper_s_ratios_and_numbers(name):
    job, _ = read_job(PAPER / f"{name}.yaml")
    assert job.noise is not None and job.noise.ratios == RATIOS
    assert job.heads is not None and job.spectrum is not None
    assert [(entry.head, entry.preset) for entry in job.heads.sweep] == [
        *(("linear_probe", "paper"), ("mlp", "paper"), ("nmtune", "paper"), ("nmtune", "official"))
    ]
    header = (PAPER / f"{name}.yaml").read_text().split("\n\nname:")[0]
    assert TABLE_3[name] in re.sub(" +", " ", header)
    for words in ("not measured; computed", "Not known of the paper's recipe", "# Hardware:"):
        assert words in header


def test_a_paper_job_is_planned_as_it_stands(job, tmp_path, capsys):
    name, data = job
    info = json.loads((Path(data["pretrain"]) / "dataset.json").read_text())
    assert len(info["shards"]) == SHARDS[name]
    whole = planned(capsys, *words(name, data, tmp_path))
    kinds = [stage.split("/")[0] for stage in whole]
    assert {kind: kinds.count(kind) for kind in ("ledger", "pretrain", "extract", "spectrum", "heads", "report")} == {
        **dict.fromkeys(("ledger", "pretrain", "extract", "spectrum", "heads"), len(RATIOS)),
        "report": 1,
    }
    assert "1 steps an epoch of " in whole["samples"]

    pretraining = {stage: digest for stage, digest in whole.items() if stage.startswith("pretrain/")}
    other_task = {**data, "train": data["test"], "test": data["train"]}
    other = planned(capsys, *words(name, other_task, tmp_path, "name=other"))
    assert pretraining.items() <= other.items(), "another downstream task trains nothing again"
    assert whole["heads/" + next(iter(pretraining)).removeprefix("pretrain/")] not in other.values()
    absent = {split: "nowhere" if split in DOWNSTREAM else path for split, path in data.items()}
    alone = planned(capsys, *words(name, absent, tmp_path, "heads=null", "spectrum=null", "extract=null"))
    assert pretraining.items() <= alone.items(), "pre-training needs no downstream task"


@pytest.mark.parametrize("job", ["paper_in1k", pytest.param("paper_yfcc15m", marks=pytest.mark.slow)], indirect=True)
def test_a_paper_job_runs_to_its_end_at_small_size(job, tmp_path):
    name, data = job
    assert call(["run", *words(name, data, tmp_path, *SMALL, *OWN[name]), "--inline"]) == 0
    study = tmp_path / "studies" / name
    made = paths_of(study)
    arms = [path for stage, path in made.items() if stage.startswith("pretrain/")]
    assert len(arms) == 2
    for arm in arms:
        (row,) = parquet.read_table(arm / "curves.parquet").to_pylist()
        assert 0 <= row["zero_shot" if name == "paper_yfcc15m" else "validation_accuracy"] <= 1
        assert np.isfinite(row["loss_clean"])
    heads = [path for stage, path in made.items() if stage.startswith("heads/")]
    assert len(heads) == 2
    for path in heads:
        scores = json.loads((path / "results.json").read_text())
        assert [set(score["scores"]) for score in scores] == [{"validation", "test", "ood"}] * 4
    assert "NMTune" in (study / "report.html").read_text()
