"""Every measurement of training runs, at sizes that show nothing but that."""

import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from benchmarks import five_arms, train_step
from benchmarks.turns import Blocks, Turns

ROOT = Path(__file__).parents[2]


def quick(name, tmp_path, *more):
    """A run in a process of its own, as it starts and ends a Ray of its own."""
    command = [sys.executable, str(ROOT / f"benchmarks/{name}.py"), "--quick", "--data", str(tmp_path / "data")]
    subprocess.run([*command, "--out", str(tmp_path), *more], check=True, stdout=subprocess.DEVNULL)
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert {"command", "date", "machine", "versions"} <= set(result)
    assert "at most" in (tmp_path / f"{name}.md").read_text()
    return result


def test_blocks_come_one_after_another_and_begin_in_turn(tmp_path):
    blocks = Blocks(str(tmp_path), ("a", "b"), workers=2, count=3, steps=4, skipped=1)

    def before(arm, block):
        return [file.name for file in blocks.before(arm, block)]

    assert before("a", 0) == ["a--1-0.json", "a--1-1.json", "b--1-0.json", "b--1-1.json"]
    assert before("b", 0) == ["a-0-0.json", "a-0-1.json"]
    assert before("b", 1) == ["b-0-0.json", "b-0-1.json"]
    assert before("a", 1) == ["b-1-0.json", "b-1-1.json"]
    assert before("a", 2) == ["a-1-0.json", "a-1-1.json"]


def test_two_runs_never_take_a_step_of_a_block_at_once(tmp_path):
    blocks = Blocks(str(tmp_path), ("a", "b"), workers=1, count=4, steps=3, skipped=1)
    taken = []

    def run(arm):
        turns = Turns(blocks, arm, 0)
        for step in range(14):  # two more than are measured
            turns.before(step)
            if step < 12:
                taken.append((arm, step))

    threads = [threading.Thread(target=run, args=(arm,)) for arm in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    order = [arm for arm in "abbaabba" for _ in range(3)]
    assert [arm for arm, _ in taken] == order
    for block in range(4):
        assert blocks.cost("a", block).cpu >= 0


def test_the_interval_of_ratios_is_students():
    middle, low, high = train_step.ratio_interval([math.log(1.02), 0.0, math.log(1.01)])
    assert middle == pytest.approx((1.02 * 1.01) ** (1 / 3))
    deviation = np.std([math.log(1.02), 0.0, math.log(1.01)], ddof=1)
    assert math.log(high / middle) == pytest.approx(4.302653 * deviation / math.sqrt(3), rel=1e-5)
    assert math.log(middle / low) == pytest.approx(math.log(high / middle))


@pytest.mark.long
def test_five_arms(tmp_path):
    five_arms.main(["--quick", "--data", str(tmp_path / "data"), "--out", str(tmp_path)])
    result = json.loads((tmp_path / "five_arms.json").read_text())
    assert len(result["same_bytes"]) == 5 * 4
    assert len(result["goals"]) == 2


@pytest.mark.ray
@pytest.mark.slow
def test_train_start(tmp_path):
    result = quick("train_start", tmp_path)
    assert set(result["rounds"]) == {"ours", "trivial"}
    assert result["rounds"]["ours"][0]["by_process"]["RayTrainWorker"] > 0


@pytest.mark.ray
@pytest.mark.slow
def test_train_step(tmp_path):
    result = quick("train_step", tmp_path)
    for launches in result["launches"].values():
        assert all(len(one["ray"]) == len(one["torchrun"]) == 2 for one in launches)
        assert all(cost["cpu"] > 0 for one in launches for cost in one["ray"] + one["torchrun"])
