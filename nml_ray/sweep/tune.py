"""The sweep as Ray Tune runs it: a few worker processes, each kept for many trials.

A trial's result is its artifact; Tune only schedules. Resuming a sweep therefore needs none of Tune's own state, which
is pickled: finished trials are not submitted again, and Tune's directory is removed at the end.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import RayTaskError

from nml_ray.sweep.trials import Trial, TrialFunction, TrialsFailed


def run_trials(
    trials: Sequence[Trial],
    function: TrialFunction,
    *,
    name: str,
    storage: Path,
    cpus: float = 1,
    max_concurrent: int | None = None,
    done: Callable[[Trial], None] = lambda trial: None,
) -> None:
    """Run every trial on the Ray that this process is connected to; the same results as `trials.run_inline`.

    Args:
        trials: what to run; worker processes start once and take one trial after the other.
        function: importable by the workers, or picklable.
        name: of Tune's directory below `storage`, new for each call (Tune resumes an old one silently).
        storage: where Tune keeps its own state meanwhile; seen by all nodes.
        cpus: reserved for each trial.
        max_concurrent: trials at once; as many as the cluster's CPUs allow when None.
        done: called in this process after each trial that did not fail.

    Raises:
        TrialsFailed: at the end, naming every trial that failed or never ran.
    """
    if not trials:
        return
    count = _Count(trials, done)
    trainable = tune.with_resources(
        tune.with_parameters(_run_one, trials=list(trials), function=function), {"cpu": cpus}
    )
    results = tune.Tuner(
        trainable,
        param_space={"number": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=max_concurrent),
        run_config=tune.RunConfig(name=name, storage_path=str(storage), verbose=0, callbacks=[count]),
    ).fit()
    shutil.rmtree(storage / name, ignore_errors=True)
    reasons = {result.config["number"]: reason_of(result.error) for result in results if result.error}
    failed = [number for number in range(len(trials)) if number not in count.finished]
    if failed:
        raise TrialsFailed({trials[number].name: reasons.get(number, "it never ran") for number in failed})


def reason_of(error: BaseException) -> str:
    """The exception that a trial's function raised, in one line."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class _Count(tune.Callback):
    """Knows which trials have ended well."""

    def __init__(self, trials: Sequence[Trial], done: Callable[[Trial], None]) -> None:
        self.finished: set[int] = set()
        self._trials = trials
        self._done = done

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        self.finished.add(number)
        self._done(self._trials[number])


def _run_one(config: dict[str, Any], trials: Sequence[Trial], function: TrialFunction) -> None:
    function(trials[config["number"]])
    tune.report({"number": config["number"]})
