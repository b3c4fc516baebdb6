"""The measurement of submitting, at a size that shows nothing but that it works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.ray
@pytest.mark.slow
def test_submit_start(tmp_path):
    """In a process of its own, with a head of its own."""
    command = [sys.executable, str(ROOT / "benchmarks/submit_start.py"), "--quick", "--out", str(tmp_path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result = json.loads((tmp_path / "submit_start.json").read_text())
    assert {"command", "date", "machine", "versions"} <= set(result)
    assert set(result["rounds"]) == {"ray", "ours", "new code"}
    assert all(one["first line"] > 0 for found in result["rounds"].values() for one in found)
    assert "at most" in (tmp_path / "submit_start.md").read_text()
