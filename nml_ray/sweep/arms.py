"""The noise-ratio sweep: each arm is a Ray Tune trial, and each trial a Ray Train run of its own."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import ray

from nml_ray.config.errors import UserError
from nml_ray.pretrain.plan import ArmOutcome, GroupPlan, attempt_name
from nml_ray.pretrain.trainer import train_on_ray
from nml_ray.storage.atomic import read_json, write_json
from nml_ray.sweep.trials import Trial, TrialsFailed
from nml_ray.sweep.tune import run_trials

OUTCOMES = "outcomes.json"

# A trial's own process only waits for its Train run, which reserves its CPUs in a placement group that Tune does not
# count. Tune refuses a trial without resources; this one every head node has, and it keeps drivers on a safe node.
DRIVER = {"node:__internal_head__": 0.001}


def concurrency(cpus: float, workers: int, each: int) -> int:
    """How many trials of some workers, each with its CPUs, fit a cluster at once.

    Raises:
        UserError: not one fits; it would stay pending for ever.
    """
    needed = workers * each
    if cpus < needed:
        raise UserError(
            f"the cluster has {cpus:g} CPUs, a trial of {workers} worker(s) x {each} CPUs does not fit",
            where="run.arms: sweep",
            expected=f"at least {needed} CPUs, or fewer threads, decode_threads or workers",
        )
    return int(cpus // needed)


def train_as_trials(plans: Sequence[GroupPlan], workers: int, storage: str) -> list[ArmOutcome]:
    """Train every plan as a trial; an arm's failure is its outcome, and leaves the others running.

    Resuming needs nothing of Tune's: finished arms are artifacts and never come here, others have checkpoints.
    """
    cluster = ray.cluster_resources()
    at_once = concurrency(cluster.get("CPU", 0), workers, plans[0].cpus)
    if plans[0].device == "cuda":
        at_once = max(1, min(at_once, int(cluster.get("GPU", 0) // workers)))  # too few for one: its run says so
    trials = [
        Trial(attempt_name(plan), "", {"plan": asdict(plan), "workers": workers, "storage": storage}) for plan in plans
    ]
    reasons: dict[str, str] = {}
    try:
        name = f"sweep-{attempt_name(plans[0])}"
        # Not retried: the lost driver's workers may live on for a while, and no two runs may write one attempt.
        run_trials(
            trials, _train, name=name, storage=Path(storage), resources=DRIVER, max_concurrent=at_once, retries=0
        )
    except TrialsFailed as failed:
        reasons = failed.reasons
    return [outcome for plan in plans for outcome in _outcomes(plan, reasons.get(attempt_name(plan), ""))]


def _train(trial: Trial) -> None:
    plan = GroupPlan.from_data(trial.payload["plan"])
    outcomes = train_on_ray(plan, trial.payload["workers"], trial.payload["storage"])
    write_json(Path(plan.arms[0].attempt) / OUTCOMES, [asdict(outcome) for outcome in outcomes])


def _outcomes(plan: GroupPlan, reason: str) -> list[ArmOutcome]:
    if reason:
        return [ArmOutcome(arm.name, {}, reason) for arm in plan.arms]
    return [ArmOutcome(**outcome) for outcome in read_json(Path(plan.arms[0].attempt) / OUTCOMES)]
