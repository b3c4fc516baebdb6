"""Every measurement of heads and features runs, at sizes that show nothing but that."""

import importlib
import json

import pytest

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", ["head_step", "head_batches", "feature_store", "spectrum_sums"])
def test_it_runs(name, tmp_path):
    more = ["--device", "cpu"] if name == "head_batches" else []
    arguments = ["--quick", "--data", str(tmp_path), "--out", str(tmp_path), *more]
    importlib.import_module(f"benchmarks.{name}").main(arguments)
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert result["goals"] and {"command", "date", "machine", "versions"} <= set(result)
    assert "at " in (tmp_path / f"{name}.md").read_text()
    if name == "spectrum_sums":
        assert result["apart"] < 1e-8
