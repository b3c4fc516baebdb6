"""nml-ray gc: what it lists, and what it removes when told."""

import os
import time
from pathlib import Path

import pytest

from nml_ray.cli.main import call
from nml_ray.storage.artifact import Store
from nml_ray.storage.atomic import write_json
from tests.study.garbage_storage import OLD, digest, there, two_arms


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return two_arms(tmp_path / "runs")


def test_the_command_lists_and_removes_only_when_told(store: Store, capsys) -> None:
    assert call(["gc", "--storage", str(store.root)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told[:2]] == [f"extract/{digest(13)}", f"pretrain/{digest(3)}"]
    assert "10.0 days" in told[0] and told[2].startswith("2 to remove, ") and told[2].endswith("--remove does it")
    assert len(there(store)) == 5
    assert call(["gc", "--storage", str(store.root), "--older-than", "11", "--remove"]) == 0
    assert capsys.readouterr().out == "0 to remove, 0 B\n" and len(there(store)) == 5
    assert call(["gc", "--storage", str(store.root), "--remove"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 removed, ") and len(there(store)) == 3
    assert call(["gc", "--storage", str(store.root / "none")]) == 2
    assert "no directory" in capsys.readouterr().err


def test_records_of_submissions_go_only_when_told(store: Store, capsys) -> None:
    now = time.time()
    beat = {"attempt": 1, "host": "far", "pid": 1, "process": 1, "started": OLD, "message": ""}
    for id, state in (
        ("old", {"state": "failed", "heartbeat": OLD, "exit_code": 1, "ended": OLD}),
        ("new", {"state": "succeeded", "heartbeat": now, "exit_code": 0, "ended": now}),
        ("alive", {"state": "running", "heartbeat": now}),
        ("lost", {"state": "running", "heartbeat": OLD}),
    ):
        (store.root / "submissions" / id / "driver").mkdir(parents=True)
        (store.root / "submissions" / id / "submission.json").write_text("{}")
        write_json(store.root / "submissions" / id / "status.json", {**beat, **state})
    (store.root / "submissions" / "queued").mkdir()
    assert call(["gc", "--storage", str(store.root), "--remove"]) == 0
    assert len(os.listdir(store.root / "submissions")) == 5
    assert call(["gc", "--storage", str(store.root), "--remove", "--submissions"]) == 0
    assert sorted(os.listdir(store.root / "submissions")) == ["alive", "new", "queued"]
    assert "2 removed" in capsys.readouterr().out
