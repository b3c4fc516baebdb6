"""Trackers: what a run sends can be read by the trackers' own code, and a missing package is said at once."""

import importlib.machinery
import importlib.util
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import parquet
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog

from nml_ray.config.errors import UserError
from nml_ray.pretrain import telemetry, tracker_names
from nml_ray.pretrain.loop import train_group
from nml_ray.pretrain.trackers import TensorBoard, open_trackers
from nml_ray.pretrain.world import World
from nml_ray.study.job import RunSettings, read_job
from nml_ray.study.machine_check import refuse_trackers


def events(directory: Path) -> list[Event]:
    """The events of a directory's files: records of length, its checksum, data and its checksum (TFRecord)."""
    found = []
    for path in sorted(directory.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            record = data[at + 12 : at + 12 + length]
            rotated = crc32c(record)
            (checksum,) = struct.unpack_from("<I", data, at + 12 + length)
            assert checksum == ((rotated >> 15 | rotated << 17) + 0xA282EAD8) & 0xFFFFFFFF
            found.append(Event.FromString(record))
            at += 16 + length
    return found


def scalars(directory: Path, tag: str) -> dict[int, float]:
    values = [(event.step, value) for event in events(directory) for value in event.summary.value]
    return {step: value.simple_value for step, value in values if value.tag == tag}


def test_event_files_hold_what_was_logged_and_where_it_began(tmp_path):
    board = TensorBoard("arm", tmp_path, start=40)
    board.log(41, {"train/loss": 0.5, "train/learning_rate": 0.25})
    first, begun, logged = events(tmp_path / "tensorboard")  # on the disk before it is closed
    board.close()
    assert first.file_version == "brain.Event:2"
    assert (begun.step, begun.session_log.status) == (40, SessionLog.START)
    assert (logged.step, {value.tag: value.simple_value for value in logged.summary.value}) == (
        41,
        {"train/loss": 0.5, "train/learning_rate": 0.25},
    )


def test_a_run_of_two_arms_leaves_event_files_of_each(make_plan, monkeypatch):
    monkeypatch.setattr(telemetry, "EVERY_SECONDS", 0.0)
    plan = replace(make_plan(), trackers=("tensorboard",))
    train_group(plan, World(), lambda *_: None)
    for arm in plan.arms:
        attempt = Path(arm.attempt)
        curves = parquet.read_table(attempt / "curves.parquet").to_pylist()
        clean = scalars(attempt / "tensorboard", "epoch/accuracy_clean")
        assert clean == pytest.approx({6 * row["epoch"] + 5: row["accuracy_clean"] for row in curves})
        assert list(scalars(attempt / "tensorboard", "train/gradient_norm")) == list(range(18))
    assert set(scalars(attempt / "tensorboard", "epoch/fitted_flipped")) == {5, 11, 17}


@pytest.mark.long
def test_no_tracker_is_imported_unless_it_is_asked_for():
    code = "import sys, nml_ray.pretrain.loop, nml_ray.study.job; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not any(f"'{name}'" in done.stdout for name in ("tensorboardX", "mlflow", "wandb"))


def without(*modules):
    """`find_spec` on a machine that lacks some modules, but has a folder of their name."""
    return lambda name: (
        importlib.machinery.ModuleSpec(name, None) if name in modules else importlib.util.find_spec(name)
    )


@pytest.mark.parametrize(("name", "package"), [("mlflow", "mlflow-skinny"), ("wandb", "wandb")])
def test_a_package_that_is_missing_is_named_before_anything_starts(tmp_path, monkeypatch, name, package):
    monkeypatch.setattr(tracker_names, "find_spec", without("mlflow", "wandb"))
    path = tmp_path / "job.yaml"
    path.write_text(f"name: a\ndata: {{icons: {{}}}}\npretrain: {{}}\nrun:\n  trackers: [tensorboard, {name}]\n")
    job, document = read_job(path)  # a kept job can be read without them
    with pytest.raises(UserError, match=f"job.yaml:5.* tracker '{name}' .* pip install {package}"):
        refuse_trackers(job, document)
    with pytest.raises(UserError, match=f"pip install {package}"):
        open_trackers([name], "arm", tmp_path, 0)
    assert RunSettings().trackers == ("tensorboard",)
    assert RunSettings(trackers=()).trackers == ()


@pytest.mark.skipif(bool(tracker_names.missing_tracker(["mlflow"])), reason="mlflow is not installed")
def test_mlflow_has_what_was_logged(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "icons")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for arm in ("clean", "noisy"):  # the second finds the experiment of the first
        (tracker,) = open_trackers(["mlflow"], arm, tmp_path, 3)
        tracker.log(3, {"train/loss": 0.5})
        tracker.log(4, {"train/loss": 0.25})
        tracker.close()
    client = MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name("icons").experiment_id])
    assert {(run.info.run_name, run.info.status) for run in runs} == {("clean", "FINISHED"), ("noisy", "FINISHED")}
    history = client.get_metric_history(runs[0].info.run_id, "train/loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(3, 0.5), (4, 0.25)]


@pytest.mark.skipif(bool(tracker_names.missing_tracker(["wandb"])), reason="wandb is not installed")
def test_two_arms_are_two_runs_of_weights_and_biases(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    attempts = [tmp_path / "a", tmp_path / "b"]
    opened = []
    for attempt in attempts:
        attempt.mkdir()
        opened += open_trackers(["wandb"], attempt.name, attempt, 3)
    for tracker in opened:
        tracker.log(3, {"train/loss": 0.5})
    for tracker in opened:
        tracker.close()
    for attempt in attempts:
        (file,) = attempt.glob("wandb/offline-run-*/run-*.wandb")
        assert b"train/loss" in file.read_bytes()
