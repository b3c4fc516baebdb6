"""Groups of arms spread over the cluster: each is a Ray Tune trial, and each trial a Ray Train run of its own."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from nml_ray.config.errors import UserError
from nml_ray.pretrain.capacity import Workers
from nml_ray.pretrain.plan import ArmOutcome, GroupPlan, attempt_name
from nml_ray.pretrain.trainer import runs_at_once, train_on_ray
from nml_ray.storage.atomic import write_json
from nml_ray.sweep.trials import Trial, TrialsFailed
from nml_ray.sweep.tune import run_trials

RESULT = "outcomes.json"

# A trial's own process only waits for its Train run, which reserves its CPUs in a placement group that Tune does not
# count. Tune refuses a trial without resources; this one every head node has, and it keeps drivers on a safe node.
DRIVER = {"node:__internal_head__": 0.001}


def train_as_trials(
    plans: Sequence[GroupPlan], workers: Workers, storage: str, wait_minutes: float = 0
) -> Iterator[ArmOutcome]:
    """Train every plan as a trial; an arm's failure is its outcome, and leaves the others running.

    Resuming needs nothing of Tune's: finished arms are artifacts and never come here, others have checkpoints.

    Raises:
        UserError: a trial fits nowhere; or, after the outcomes, a mistake of the user's that one ran into.
    """
    at_once = runs_at_once(plans[0], workers, wait_minutes)
    shared = {"workers": asdict(workers), "storage": storage, "wait_minutes": wait_minutes}
    trials = [Trial(attempt_name(plan), "", {"plan": plan.carried(), **shared}) for plan in plans]
    reasons: dict[str, str] = {}
    try:
        name = f"sweep-{attempt_name(plans[0])}"
        # Not retried: the lost driver's workers may live on for a while, and no two runs may write one attempt.
        run_trials(
            trials, _train, name=name, storage=Path(storage), resources=DRIVER, max_concurrent=at_once, retries=0
        )
    except TrialsFailed as failed:
        reasons = failed.reasons
    mistakes = []
    for plan in plans:
        if reason := reasons.get(attempt_name(plan)):
            yield from (ArmOutcome(arm.name, {}, reason) for arm in plan.arms)
            continue
        result = json.loads(_result(plan).read_bytes())
        if "user_error" in result:
            mistakes.append(result["user_error"])
        else:
            yield from (ArmOutcome(**outcome) for outcome in result["outcomes"])
    if mistakes:
        raise UserError("\n".join(dict.fromkeys(mistakes)))


def _train(trial: Trial) -> None:
    plan, workers = GroupPlan.from_data(trial.payload["plan"]), Workers(**trial.payload["workers"])
    try:
        outcomes = train_on_ray(plan, workers, trial.payload["storage"], trial.payload["wait_minutes"])
    except UserError as error:
        write_json(_result(plan), {"user_error": str(error)})
    else:
        write_json(_result(plan), {"outcomes": [asdict(outcome) for outcome in outcomes]})


def _result(plan: GroupPlan) -> Path:
    return Path(plan.arms[0].attempt) / RESULT
