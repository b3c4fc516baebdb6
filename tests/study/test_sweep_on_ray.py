"""Sweeps under Ray: the values and artifacts of the same sweeps without it."""

import pytest

from nml_ray.cli.options import open_job
from nml_ray.study.execute import execute
from tests.small_icons import small_icons
from tests.study.sweep_jobs import EPOCHS, RATE, job_of, quiet, rows_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("shared_ray")]

RANGE = {"log_uniform": [1e-4, 1]}
SWEEPS = {
    "grid": {"search": {RATE: [0.01, 0.1], EPOCHS: [1, 2]}},
    "random": {"search": {RATE: RANGE}, "kind": "random", "trials": 4, "max_concurrent": 2},
    "optuna": {"search": {RATE: RANGE}, "kind": "optuna", "trials": 4, "max_concurrent": 2},
}


def results(root, job, inline):
    done = execute(job, quiet(), inline=inline)
    assert done.outcome.failures == {}
    return [(row["point"], row["value"], row["artifacts"], row["best"]) for row in rows_of(root)]


@pytest.mark.parametrize("kind", SWEEPS)
def test_ray_comes_to_the_results_of_inline(tmp_path, kind):
    pytest.importorskip("optuna")
    found = []
    for inline in (True, False):
        root = tmp_path / str(inline)
        root.mkdir()
        found.append(results(root, job_of(root, SWEEPS[kind]), inline))
    assert found[0] == found[1] and len(found[0]) == 4


@pytest.mark.slow
def test_trials_of_several_recipes_train_side_by_side(tmp_path):
    """Each arm a trial of Tune's, as `run.arms: sweep` says: a recipe is that of its own plan."""
    data = small_icons(tmp_path / "icons")
    settings = (
        data,
        "name=s",
        "threads=1",
        "pretrain.encoder.width=2",
        "pretrain.batch=128",
        "heads.seeds=[0]",
        "heads.sweep=[{head: linear_probe, fixed: {epochs: 2}}]",
        "sweep.search={noise.ratios: [[0.3]], pretrain.epochs: [1, 2]}",
        "run.arms=sweep",
        "run.cpus=2",
    )
    found = []
    for inline in (True, False):
        root = tmp_path / str(inline)
        found.append(results(root, open_job("demo", settings, str(root / "runs")), inline))
    assert found[0] == found[1] and len(found[0]) == 2
