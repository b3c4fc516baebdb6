"""The measurement of the study graph runs, at a size that shows nothing but that."""

import json

import pytest

from benchmarks import study_graph


@pytest.mark.long
def test_it_runs(tmp_path):
    study_graph.main(["--quick", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "study_graph.json").read_text())
    assert len(result["goals"]) == 6 and result["figures"]["run"][0]["stages"] > 40
    assert "planning" in (tmp_path / "study_graph.md").read_text()
