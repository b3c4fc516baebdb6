"""Sweeps over the fields of a job, without Ray, on small features and on fake stages."""

import json
import signal
import subprocess
import sys

import pytest

from nml_ray.cli.main import call
from nml_ray.config.document import Document
from nml_ray.config.errors import UserError
from nml_ray.config.validate import validate
from nml_ray.study.execute import execute, plan_job
from nml_ray.study.expand import expand
from nml_ray.study.graph import ordered
from nml_ray.study.job import Job
from nml_ray.study.listing import paths_of
from nml_ray.study.stage import digests
from nml_ray.study.union import union
from tests.study.sweep_jobs import EPOCHS, RATE, features, job_of, quiet, rows_of


def results_of(artifact):
    (path,) = artifact.glob("*/results.json")
    return json.loads(path.read_text())


@pytest.mark.long
def test_a_grid_leaves_a_table_a_summary_and_the_report_of_the_best(tmp_path, capsys):
    job = job_of(tmp_path, {"search": {RATE: [1e-7, 0.1], EPOCHS: [1, 5]}})
    done = execute(job, quiet(), inline=True)
    rows = rows_of(tmp_path)
    assert [json.loads(row["point"]) for row in rows] == [{RATE: r, EPOCHS: e} for r in (1e-7, 0.1) for e in (1, 5)]
    assert {row["status"] for row in rows} == {"finished"} and {row["metric"] for row in rows} == {"heads.score"}
    assert rows[0][RATE] == "0.0000001" and all(row["seconds"] > 0 for row in rows)
    best = max(rows, key=lambda row: row["value"])
    assert [row["best"] for row in rows] == [row is best for row in rows] and json.loads(best["point"])[RATE] == 0.1
    assert best["value"] > 0.7 and not done.outcome.failures
    # The report is of the best: its test set alone was read, by heads that its trial has fitted.
    stages = paths_of(done.directory)
    kept = [tmp_path / "runs" / dict(row["artifacts"])["heads/given"] for row in rows]
    assert len(list((tmp_path / "runs/heads").iterdir())) == 5 and len(list((tmp_path / "runs/trial").iterdir())) == 4
    assert all(set(entry["scores"]) == {"validation"} for path in kept for entry in results_of(path))
    (entry,) = results_of(stages["heads/given"].parent)
    assert set(entry["scores"]) == {"validation", "test"}
    assert "the best of 4 trials by heads.score" in (done.directory / "report.html").read_text()
    page = (done.directory / "report.html").read_text()
    assert "The sweep that chose this" in page and f"heads.score against {RATE}" in page
    assert call(["report", str(done.directory)]) == 0 and "report.html" in capsys.readouterr().out
    text = "\n".join(done.summary)
    assert "sweep: 4 trials: 4 finished" in text and f"{RATE}=0.1" in text.splitlines()[-1] and "█" in text


def test_a_trial_is_what_its_job_alone_is_and_trials_share_stages(tmp_path):
    job = job_of(tmp_path, {"search": {RATE: [0.01, 0.1]}})
    joined = union({str(number): expand(job.at({RATE: rate})) for number, rate in enumerate((0.01, 0.1))})
    assert set(joined.stages) == {"features", "extract/given", "heads/given", "heads/given@1"}
    known = digests(joined.stages)
    for rate, names in zip((0.01, 0.1), joined.names, strict=True):
        alone = job_of(tmp_path, {"search": {RATE: [rate]}}).at({RATE: rate})
        own = digests(ordered(stage for stage in expand(alone).stages if stage.kind not in ("report", "heads")))
        assert {name: known[called] for name, called in names.items() if not name.startswith("heads/")} == own
    assert {stage.group for stage in joined.stages.values() if stage.kind == "heads"} == {"all"}


def test_arms_share_a_loader_only_where_they_differ_in_noise_alone():
    data = {"name": "s", "data": {"icons": {}}, "noise": {"ratios": ["0"]}, "pretrain": {}}
    job = validate(Job, Document("job", data))
    points = [{"noise.ratios": [ratio], "pretrain.epochs": epochs} for ratio in (0, 0.1) for epochs in (1, 2)]
    joined = union({str(number): expand(job.at(point)) for number, point in enumerate(points)})
    arms = [stage for stage in joined.stages.values() if stage.kind == "pretrain"]
    assert len(arms) == 4 and len([s for s in joined.stages.values() if s.kind == "shards"]) == 1
    by_group: dict[str, set] = {}
    for stage in arms:
        by_group.setdefault(stage.group, set()).add(stage.settings["pretrain"]["epochs"])
    assert sorted(by_group.values(), key=str) == [{1}, {2}]
    assert len({stage.group for stage in arms}) == 2


@pytest.mark.long
@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_a_sweep_that_is_run_again_makes_nothing_and_more_trials_only_theirs(tmp_path, kind):
    pytest.importorskip("optuna")
    search = {RATE: {"log_uniform": [1e-4, 1]}, EPOCHS: {"integers": [1, 4]}}
    sweep = {"search": search, "kind": kind, "trials": 5, "max_concurrent": 2}
    execute(job_of(tmp_path, sweep), quiet(), inline=True)
    first, made = rows_of(tmp_path), sorted((tmp_path / "runs/heads").glob("*/attempt-*"))
    execute(job_of(tmp_path, sweep), quiet(), inline=True)
    assert rows_of(tmp_path) == first and len({row["point"] for row in first}) == 5
    assert sorted((tmp_path / "runs/heads").glob("*/attempt-*")) == made
    execute(job_of(tmp_path, {**sweep, "trials": 6}), quiet(), inline=True)
    assert [row["point"] for row in rows_of(tmp_path)][:5] == [row["point"] for row in first]
    assert len(list((tmp_path / "runs/heads").glob("*/attempt-*"))) == len(made) + 1


@pytest.mark.long
def test_halving_gives_the_best_more_epochs(tmp_path):
    asha = {"field": EPOCHS, "epochs": [1, 4], "factor": 2}
    sweep = {"search": {RATE: [1e-7, 0.2, 0.1, 1e-6]}, "asha": asha, "max_concurrent": 4}
    execute(job_of(tmp_path, sweep), quiet(), inline=True)
    rows = rows_of(tmp_path)
    assert [row["trial"] for row in rows][:4] == ["0", "1", "2", "3"] and len(rows) == 6
    assert sorted(row["status"] for row in rows) == ["finished"] * 2 + ["promoted"] * 2 + ["stopped"] * 2
    assert {json.loads(row["point"])[EPOCHS] for row in rows if row["rung"] == 1} == {4}
    (best,) = [row for row in rows if row["best"]]
    assert best["rung"] == 1 and best["number"] in (1, 2)


@pytest.mark.long
def test_trials_that_fail_are_named_and_the_others_go_on(tmp_path, capsys):
    good, one_class = features(tmp_path), features(tmp_path, "one", classes=1)
    files = [good["train"], one_class["train"], str(tmp_path / "absent.npz")]
    job = {
        "name": "s",
        "features": good,
        "heads": {"sweep": [{"head": "linear_probe", "fixed": {"epochs": 3}}]},
        "sweep": {"search": {"features.train": files}},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    assert call(["run", str(tmp_path / "job.yaml"), "--storage", str(tmp_path / "runs"), "--inline"]) == 1
    rows = rows_of(tmp_path)
    assert [row["status"] for row in rows] == ["finished", "failed", "failed"]
    assert [row["best"] for row in rows] == [True, False, False]
    assert "one-train.npz has no sample" in rows[1]["reason"] and "absent.npz" in rows[2]["reason"]
    said = capsys.readouterr()
    assert "1 finished, 2 failed" in said.out and "report:" in said.out
    assert "error.log" in said.err and "traceback: None" not in said.err
    assert "failed: trial 1 (features.train=" in said.err and "failed: trial 2 (features.train=" in said.err
    assert call(["plan", str(tmp_path / "job.yaml"), "--storage", str(tmp_path / "runs")]) == 2


def test_a_plan_lists_each_stage_of_all_trials_once(tmp_path):
    job = job_of(tmp_path, {"search": {RATE: [0.01, 0.1]}})
    planned = plan_job(job)[1]
    assert [one.state for name, one in planned.items() if name.startswith("heads/")] == ["to do"] * 2
    with pytest.raises(UserError, match="a sweep has no single stage"):
        execute(job, quiet(), target="heads", inline=True)


KILLED = """
import os, signal, sys
from pathlib import Path
from nml_ray.cli.options import open_job
from nml_ray.study.execute import execute
from nml_ray.study.progress import PlainDisplay

class Killing(PlainDisplay):
    def say(self, line):
        if line.startswith("trial 1"):
            os.kill(os.getpid(), signal.SIGKILL)

execute(open_job(sys.argv[1], (), None), Killing(), inline=True)
"""


@pytest.mark.long
def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    pytest.importorskip("optuna")
    search = {RATE: {"log_uniform": [1e-4, 1]}}
    results = []
    for name in ("killed", "whole"):
        root = tmp_path / name
        root.mkdir()
        job = job_of(root, {"search": search, "kind": "optuna", "trials": 4, "max_concurrent": 1})
        (root / "job.yaml").write_text(json.dumps(job.model_dump(mode="json", exclude_unset=True)))
        if name == "killed":
            done = subprocess.run([sys.executable, "-c", KILLED, str(root / "job.yaml")], check=False)
            assert done.returncode == -signal.SIGKILL
            assert len(list((root / "runs/heads").iterdir())) == 2
        execute(job, quiet(), inline=True)
        assert len(list((root / "runs/heads").glob("*/attempt-*"))) == 5  # the best is measured on test too
        results.append([(row["point"], row["value"], row["artifacts"]) for row in rows_of(root)])
    assert results[0] == results[1]
