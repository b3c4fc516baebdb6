"""The measurement of a GPU, small and on a processor: it says what it found, and what the bottleneck is."""

import itertools
import json

import pytest

from benchmarks import gpu_parts, gpu_training
from benchmarks.gpu_parts import Clock, Enough, Figures
from benchmarks.gpu_training import limit

pytestmark = pytest.mark.long


def test_the_whole_script(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    gpu_training.main(["--device", "cpu", "--quick", "--data", str(data), "--out", str(out)])
    result = json.loads((out / "gpu_training_cpu.json").read_text())
    assert result["device"] == "cpu"
    names = ["synthetic", "shards", "decoding", "forward pass", "extraction", "decoding for extraction"]
    assert list(result["parts"]) == names
    assert all(part["rate"] > 0 for part in result["parts"].values())
    assert 0 <= result["parts"]["shards"]["data_wait"] <= 1
    assert {goal["limit"] for goal in result["goals"]} == {0.9, 0.1}
    printed = capsys.readouterr().out
    assert printed.rstrip().splitlines()[-1].startswith("| decoding for extraction |")
    assert "threads feed" in (out / "gpu_training_cpu.md").read_text()
    assert not list(data.glob("gpu-training-*"))


def test_the_clock_leaves_out_the_warm_up_and_the_steps_of_checkpoints(monkeypatch):
    seconds = itertools.accumulate([10.0, 1.0, 1.0, 5.0, 1.0, 1.0, 1.0, 1.0])  # the fifth step waits for a checkpoint
    now = [0.0]
    monkeypatch.setattr(gpu_parts.time, "perf_counter", lambda: now[0])
    clock = Clock(seconds=8.5, warm=2)
    for now[0] in seconds:
        try:
            clock.tick(64)
        except Enough:
            break
    assert clock.times == [12.0, 17.0, 18.0, 19.0, 20.0, 21.0]
    assert clock.rate() == 64 * 5 / 9
    assert clock.rate([range(1, 2)]) == 64


def test_the_bottleneck_is_told_with_the_threads_that_it_would_take():
    told = limit("training", taken=Figures(3000), fed=Figures(1000), threads=4)
    assert "DECODING IS THE BOTTLENECK" in told
    assert "would take 12 threads" in told
    assert "decoding keeps up" in limit("training", taken=Figures(500), fed=Figures(1000), threads=4)
