"""`nml-ray audit` on the directories that a study leaves, made here without training."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from nml_ray.cli.main import call
from nml_ray.data.config import NoiseArm
from nml_ray.data.dataset import Dataset
from nml_ray.data.indexing import set_known_bad
from nml_ray.data.labels import given_labels
from nml_ray.data.loader import Loader, LoaderPlan
from nml_ray.data.schedule import Schedule
from nml_ray.data.shards import write_shards
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.feeding import FeedingLog
from nml_ray.storage.artifact import Store
from nml_ray.study.execute import execute, plan_job
from nml_ray.study.job import read_job
from nml_ray.study.progress import display
from tests.pretrain.conftest import CLASSES, tiny_samples

JOB = """
name: tiny
data:
  shards: {{pretrain: {root}/tars}}
noise:
  ratios: [0, 0.25]
pretrain:
  encoder: {{width: 4, channels: 1, size: 12}}
  epochs: 2
  batch: 16
run:
  storage: {root}/runs
"""
LINE = "40         32          8          0          0          0"


def feed(store, planned, inputs, data):
    """What the workers of a pre-training run leave, but the weights."""
    stage = planned.stage
    attempt = store.attempt("pretrain", planned.digest, stage=stage.name, settings=stage.settings, inputs=inputs)
    dataset, settings = Dataset.open(data), PretrainSettings.model_validate(stage.settings["pretrain"])
    schedule = Schedule(dataset, settings.order, stage.settings["seed"], settings.batch, settings.microbatch)
    plan = LoaderPlan(0, 16, 1, 12, settings.augmentation, schedule.batch)
    log = FeedingLog([attempt.path], 0, dataset.key, [given_labels(dataset, noise(stage))])
    for step, microbatches in enumerate(Loader(dataset, plan).steps(0, 4)):
        log.add(step, microbatches)
    log.cut(4).finish()
    lineage = [{"attempt": attempt.path.name, "from_step": 0}]
    attempt.finish(steps=4, steps_per_epoch=2, dropped_per_epoch=8, lineage=lineage)


def noise(stage):
    return NoiseArm.from_hashed(stage.settings["noise"])


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The storage of a study with two arms; its ledgers are made by the job, its feeding logs without a model."""
    write_shards(tiny_samples(40), tmp_path / "tars", samples_per_shard=20, classes=CLASSES)
    (tmp_path / "job.yaml").write_text(JOB.format(root=tmp_path))
    job, _ = read_job(tmp_path / "job.yaml")
    execute(job, display(), target="ledger", inline=True)
    store, (_, planned) = Store(tmp_path / "runs"), plan_job(job, "pretrain")
    for one in planned.values():
        if one.stage.kind == "pretrain":
            inputs = {
                role: f"{planned[name].stage.kind}/{planned[name].digest}" for role, name in one.stage.inputs.items()
            }
            feed(store, one, inputs, tmp_path / "tars")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def artifact(study, ratio="0.25") -> Path:
    """The directory of an arm's pretrain artifact."""
    (found,) = (
        path.parent
        for path in (study / "pretrain").glob("*/record.json")
        if json.loads(path.read_text())["settings"]["noise"]["ratio"] == ratio
    )
    return found


def test_a_study_that_holds_by_name_and_by_directory(study, capsys):
    for run in ("tiny", "runs/studies/tiny"):
        assert call(["audit", run]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["run", "epochs", "samples", "fed", "dropped", "excluded", "twice", "holes"]
        assert [line.split()[:2] for line in lines[1:3]] == [
            ["pretrain/symmetric-0/seed-0", "0-1"],
            ["pretrain/symmetric-0.25/seed-0", "0-1"],
        ]
        assert all(LINE in line and line.endswith("holds") for line in lines[1:3])
        assert lines[3] == "holds: 2 runs, each sample once or dropped, in order, with the ledger's label"


def test_one_artifact_whose_data_the_study_knows(study, capsys):
    for run in (artifact(study), artifact(study) / "attempt-0001"):
        assert call(["audit", str(run)]) == 0
        assert "pretrain/symmetric-0.25/seed-0" in capsys.readouterr().out


def test_what_does_not_hold_is_named_and_code_1(study, capsys):
    (path,) = artifact(study).glob("attempt-0001/fed/*.arrow")
    table = feather.read_table(path)
    columns = {name: table[name].to_numpy().copy() for name in table.column_names}
    columns["label"][18] = (columns["label"][18] + 1) % 5
    feather.write_feather(pa.table(columns), path)
    assert call(["audit", "tiny"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "does not hold: 1 of 2 runs have findings\n"
    assert "  1 label\n" in captured.out
    assert "\n  label: epoch 0, step 1, place 2, key 'sample-" in captured.out
    assert captured.out.count("  holds\n") == 2  # the other arm, and epoch 1 of this one


def test_a_ledger_of_other_labels_is_named(study, capsys):
    for path in (study / "ledger").glob("*/attempt-0001/ledger.parquet"):
        table = parquet.read_table(path)
        columns = table.to_pydict()
        columns["given"][3] = (columns["given"][3] + 1) % 5
        parquet.write_table(pa.table(columns, schema=table.schema), path)
    assert call(["audit", "tiny"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "does not hold: 2 of 2 runs have findings\n"
    assert captured.out.count("ledger.parquet says given ") == 2


def test_an_arm_that_is_not_finished_is_code_1(study, capsys):
    (artifact(study, "0") / "record.json").unlink()
    assert call(["audit", "tiny"]) == 1
    captured = capsys.readouterr()
    assert "pretrain/symmetric-0/seed-0: not finished, nothing to audit yet" in captured.out
    assert captured.err == "does not hold: 0 of 1 runs have findings; 1 not finished\n"


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("nothing", "RUN: no study 'nothing'"),
        ("ledger", "' is no artifact of pre-training; expected .../pretrain/<hash>"),
    ],
)
def test_mistakes_are_code_2(study, capsys, run, message):
    if run == "ledger":
        run = str(next((study / "ledger").iterdir()))
    assert call(["audit", run]) == 2
    assert message in capsys.readouterr().err


def test_data_that_no_study_names_is_a_mistake(study, capsys):
    (study / "studies" / "tiny").rename(study / "studies" / "gone")
    (study / "studies" / "gone" / "job.yaml").unlink()
    assert call(["audit", str(artifact(study))]) == 2
    assert "was given by path, and no study in" in capsys.readouterr().err


def test_other_data_than_the_run_was_trained_on_is_refused(study, capsys):
    data = study.parent / "tars"
    execute(read_job(study.parent / "job.yaml")[0], display(), target="pretrain", inline=True)  # notes what is there
    before = (data / "dataset.json").read_bytes()
    set_known_bad(data, [Dataset.open(data).key(0)])
    for run in ("tiny", str(artifact(study))):
        assert call(["audit", run]) == 2
        assert "is not the data that it was trained on: its digest is" in capsys.readouterr().err
    (data / "dataset.json").write_bytes(before)
    assert call(["audit", "tiny"]) == 0
