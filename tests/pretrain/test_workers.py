"""Data parallel over gloo: the same samples and labels for every number of workers, equal bits after a kill."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from pyarrow import concat_tables, feather, parquet
from safetensors.numpy import load_file

from nml_ray.pretrain.resume import committed

WORKER = Path(__file__).with_name("gloo_worker.py")


def train(plan, workers: int, rendezvous: Path, stop: int | None = None) -> None:
    """Run a plan to its end on so many processes, or until rank 0 is killed after `stop` images."""
    codes = run([plan] * workers, rendezvous, [str(stop)] if stop else [])
    assert (codes == [0] * workers) if stop is None else codes[0] == -9


def run(plans, rendezvous: Path, tail=()) -> list[int]:
    """One process for each rank's plan; their exit codes."""
    rendezvous.unlink(missing_ok=True)
    command = [sys.executable, str(WORKER), str(rendezvous)]
    told = [(str(rank), str(len(plans)), json.dumps(asdict(plan))) for rank, plan in enumerate(plans)]
    processes = [subprocess.Popen([*command, *words, *tail]) for words in told]
    return [process.wait() for process in processes]


def result(plan):
    attempt = Path(plan.arms[-1].attempt)
    return load_file(attempt / "encoder.safetensors"), parquet.read_table(attempt / "curves.parquet").to_pylist()


def fed(plan):
    """What was fed to the last arm: (step, place) to (key, label), over all ranks."""
    files = sorted((Path(plan.arms[-1].attempt) / "fed").glob("rank-*.arrow"))
    log = concat_tables([feather.read_table(file) for file in files])
    columns = [log[name].to_pylist() for name in ("step", "place", "key_hash", "label")]
    rows = {(step, place): (key, label) for step, place, key, label in zip(*columns, strict=True)}
    assert len(rows) == log.num_rows
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_share_the_steps_of_one_and_a_killed_run_equals_the_undisturbed(make_plan, tmp_path, workers):
    settings = {"microbatch": 8, "epochs": 2}
    alone = make_plan(store="alone", **settings)
    train(alone, 1, tmp_path / "meet")
    undisturbed = make_plan(store="undisturbed", **settings)
    train(undisturbed, workers, tmp_path / "meet")
    assert fed(undisturbed) == fed(alone)
    losses = [[row["loss_clean"] for row in result(plan)[1]] for plan in (alone, undisturbed)]
    assert np.allclose(losses[0], losses[1], rtol=0.05)

    killed = replace(make_plan(store="killed", **settings), checkpoint_steps=2)
    train(killed, workers, tmp_path / "meet", stop=5 * 32)
    resumed = make_plan(store="killed", **settings)
    train(resumed, workers, tmp_path / "meet")
    weights, curves = result(resumed)
    expected, expected_curves = result(undisturbed)
    assert curves == expected_curves
    assert all(np.array_equal(weights[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_strong_recipe_does_not_depend_on_the_number_of_workers(make_plan, tiny_data, tmp_path):
    recipe = {
        "optimiser": {"name": "lamb", "learning_rate": 0.01, "clip_norm": 1.0},
        "loss": {"kind": "bce", "threshold": 0.2},
        "mixing": {"mixup": 0.2, "cutmix": 1.0},
        "randaugment": {},
        "average": {"decay": 0.9},
        "repeats": 2,
    }
    plans = [
        replace(make_plan(store=f"of-{workers}", microbatch=8, epochs=2, **recipe), validation=str(tiny_data))
        for workers in (1, 2)
    ]
    for workers, plan in enumerate(plans, 1):
        train(plan, workers, tmp_path / "meet")
    assert fed(plans[0]) == fed(plans[1])
    (_, alone), (_, shared) = map(result, plans)
    for one, other in zip(alone, shared, strict=True):
        for name in ("loss_clean", "loss_flipped", "validation_loss"):
            assert np.isclose(one[name], other[name], rtol=0.05)


@pytest.mark.slow
def test_all_workers_resume_where_rank_0_does(make_plan, tmp_path):
    """An orphan of a killed driver commits a checkpoint after rank 0 has looked and before rank 1 does."""
    settings = {"microbatch": 8, "epochs": 2}
    undisturbed = make_plan(store="undisturbed", **settings)
    train(undisturbed, 2, tmp_path / "meet")
    killed = replace(make_plan(store="killed", **settings), checkpoint_steps=2)
    train(killed, 2, tmp_path / "meet", stop=7 * 32)

    late = make_plan(store="killed", **settings)
    before = shutil.copytree(tmp_path / "killed", tmp_path / "before")
    for attempt in before.glob("pretrain/*/attempt-0001"):
        shutil.rmtree(committed(attempt)[-1])
    seen = [
        replace(arm, earlier=tuple(path.replace(str(tmp_path / "killed"), str(before)) for path in arm.earlier))
        for arm in late.arms
    ]
    assert run([replace(late, arms=tuple(seen)), late], tmp_path / "meet") == [0, 0]
    weights, expected = result(late)[0], result(undisturbed)[0]
    assert all(np.array_equal(weights[name], expected[name]) for name in expected)
