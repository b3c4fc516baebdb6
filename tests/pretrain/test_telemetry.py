"""The lines that a run writes while it trains."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import parquet

from nml_ray.data.loader import LoaderTimers
from nml_ray.pretrain import telemetry
from nml_ray.pretrain.loop import train_group
from nml_ray.pretrain.world import World


@pytest.fixture(autouse=True)
def every_step(monkeypatch):
    monkeypatch.setattr(telemetry, "EVERY_SECONDS", 0.0)


def lines_of(attempt: Path) -> list[dict]:
    return [json.loads(line) for line in (attempt / "telemetry.jsonl").read_text().splitlines()]


def test_waiting_reading_decoding_and_copying_are_separate_figures(tmp_path):
    timers = LoaderTimers()
    lines = telemetry.Telemetry([tmp_path], timers, batch=32)
    timers.wait, timers.read, timers.decode, timers.copy = 0.25, 1.5, 40.0, 0.125
    lines.step(7, 1, 0.01, [2.5], [0.75])
    lines.close()
    (line,) = lines_of(tmp_path)
    seconds = [line[f"{name}_seconds"] for name in ("wait", "read", "decode", "copy", "checkpoint")]
    assert seconds == [0.25, 1.5, 40.0, 0.125, 0.0]
    assert (line["step"], line["epoch"], line["loss"], line["gradient_norm"]) == (7, 1, 2.5, 0.75)
    assert line["data_wait_share"] > 0
    assert line["resident_bytes"] > 1 << 20
    assert not {"mfu", "cuda_peak_bytes"} & set(line)


def test_a_gradient_that_is_not_finite_is_null_and_an_arm_that_ended_has_no_lines(tmp_path):
    attempts = [tmp_path / "a", tmp_path / "b"]
    for attempt in attempts:
        attempt.mkdir()
    lines = telemetry.Telemetry(attempts, LoaderTimers(), batch=32)
    lines.step(0, 0, 0.01, [2.5, None], [math.inf, math.nan])
    lines.end_epoch(0, [{"epoch": 0, "accuracy_clean": 0.5}, None])
    lines.close()
    step, epoch = lines_of(attempts[0])
    assert step["gradient_norm"] is None
    assert epoch == {"step": 0, "epoch_ended": True, "epoch": 0, "accuracy_clean": 0.5}
    assert lines_of(attempts[1]) == []


def test_a_run_tells_how_many_flipped_labels_it_fits(make_plan):
    plan = make_plan()
    train_group(plan, World(), lambda *_: None)
    attempt = Path(plan.arms[1].attempt)
    lines = lines_of(attempt)
    epochs = [line for line in lines if "epoch_ended" in line]
    curves = parquet.read_table(attempt / "curves.parquet").to_pylist()
    for line, curve in zip(epochs, curves, strict=True):
        assert {name: value for name, value in curve.items() if value is not None}.items() <= line.items()
        assert line["fitted_flipped"] / line["samples_flipped"] == line["accuracy_flipped"]
        assert 30 < line["samples_flipped"] < 80  # 30 % of 192
    steps = [line for line in lines if "epoch_ended" not in line]
    assert [line["step"] for line in steps] == list(range(18))
    assert all(line["gradient_norm"] > 0 for line in steps)
    assert steps[-1]["checkpoint_seconds"] > 0


class Killed(Exception):
    """Stands for the process's death at a chosen point of the loop."""


def test_workers_started_again_do_not_tell_a_step_twice(make_plan):
    plan = replace(make_plan(), checkpoint_steps=4)

    def killed(done, total, unit):
        if done >= 14 * 32:
            raise Killed

    with pytest.raises(Killed):
        train_group(plan, World(), killed)
    attempt = Path(plan.arms[0].attempt)
    with open(attempt / "telemetry.jsonl", "a") as file:
        file.write('{"step": 14, "epo')  # the kill cut a line short
    train_group(plan, World(), lambda *_: None)
    lines = lines_of(attempt)
    assert [line["step"] for line in lines if "epoch_ended" not in line] == list(range(18))
    assert [line["step"] for line in lines if "epoch_ended" in line] == [5, 11, 17]


def test_lines_of_steps_that_come_again_go_when_the_file_is_opened(tmp_path):
    for start, expected in ((6, [3, 5]), (4, [3]), (0, [])):
        lines = telemetry.Telemetry([tmp_path], LoaderTimers(), batch=32)
        for step in (3, 5, 6):
            lines.step(step, 0, 0.01, [2.5], [0.75])
        lines.close()
        telemetry.Telemetry([tmp_path], LoaderTimers(), batch=32, start=start).close()
        assert [line["step"] for line in lines_of(tmp_path)] == expected
