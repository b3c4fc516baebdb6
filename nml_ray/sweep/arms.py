"""The noise-ratio sweep: each arm is a Ray Tune trial, and each trial a Ray Train run of its own."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import ray
from ray import tune

from nml_ray.config.errors import UserError
from nml_ray.pretrain.plan import ArmOutcome, ArmPlan, GroupPlan, attempt_name
from nml_ray.pretrain.trainer import train_on_ray

# A trial's own process only waits for its Train run, which reserves its CPUs in a placement group that Tune does not
# count. Tune refuses a trial without resources; this one every head node has, and it keeps drivers on a safe node.
DRIVER = {"node:__internal_head__": 0.001}


def concurrency(cpus: float, workers: int, threads: int) -> int:
    """How many trials fit a cluster at once.

    Raises:
        UserError: not one fits; it would stay pending for ever.
    """
    needed = workers * threads
    if cpus < needed:
        raise UserError(
            f"the cluster has {cpus:g} CPUs, a trial of {workers} worker(s) x {threads} thread(s) does not fit",
            where="run.arms: sweep",
            expected=f"at least {needed} CPUs, or fewer threads or workers",
        )
    return int(cpus // needed)


def train_as_trials(plans: Sequence[GroupPlan], workers: int, storage: str) -> list[ArmOutcome]:
    """Train every plan as a trial; an arm's failure is its outcome, and leaves the others running.

    Resuming needs nothing of Tune's: finished arms are artifacts and never come here, others have checkpoints.
    """
    at_once = concurrency(ray.cluster_resources().get("CPU", 0), workers, plans[0].threads)
    trainable = tune.with_parameters(_trial, plans=[asdict(plan) for plan in plans], workers=workers, storage=storage)
    results = tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([DRIVER])),
        param_space={"number": tune.grid_search(list(range(len(plans))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=at_once),
        run_config=tune.RunConfig(name=f"sweep-{attempt_name(plans[0])}", storage_path=storage, verbose=0),
    ).fit()
    finished = {result.metrics["number"]: result.metrics["outcomes"] for result in results if not result.error}
    outcomes = []
    for number, plan in enumerate(plans):
        if number in finished:
            outcomes += [ArmOutcome(**outcome) for outcome in finished[number]]
        else:
            outcomes += [ArmOutcome(arm.name, {}, _failure(results, number)) for arm in plan.arms]
    return outcomes


def _failure(results: Any, number: int) -> str:
    errors = [str(result.error) for result in results if result.error and result.config["number"] == number]
    return errors[0] if errors else "the trial never reported"


def _trial(config: dict[str, Any], plans: Sequence[dict[str, Any]], workers: int, storage: str) -> None:
    data = plans[config["number"]]
    plan = GroupPlan(**{**data, "arms": tuple(ArmPlan(**arm) for arm in data["arms"])})
    outcomes = train_on_ray(plan, workers, storage)
    tune.report({"number": config["number"], "outcomes": [asdict(outcome) for outcome in outcomes]})
