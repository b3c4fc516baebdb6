"""The measurement of sweeps, at a size that shows nothing but that it works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.ray
@pytest.mark.slow
def test_sweep_overhead(tmp_path):
    """In a process of its own, as it starts and ends a Ray of its own."""
    command = [sys.executable, str(ROOT / "benchmarks/sweep_overhead.py"), "--quick", "--data", str(tmp_path / "data")]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, stdout=subprocess.DEVNULL)
    result = json.loads((tmp_path / "sweep_overhead.json").read_text())
    assert {"command", "date", "machine", "versions"} <= set(result)
    assert {name: len(found) for name, found in result["rounds"].items()} == {
        "ours": 1,
        "two of ours": 1,
        "Tune's default": 1,
    }
    assert all(seconds > 0 for found in result["rounds"].values() for seconds in found)
    assert "at most" in (tmp_path / "sweep_overhead.md").read_text()
