"""The sweep as Ray Tune runs it: a few worker processes, each kept for many trials.

A trial's result is its artifact; Tune only schedules. Resuming a sweep therefore needs none of Tune's own state, which
is pickled: finished trials are not submitted again, and Tune's directory is removed at the end.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune

from nml_ray.config.errors import UserError
from nml_ray.sweep.trials import Trial, TrialFunction, TrialsFailed, describe

LOST_WORKERS = 2
"""Times at least that a trial whose process or machine was lost is begun anew; its own exceptions are never retried."""

PATIENCE = 600.0  # seconds that trials wait for a node with room for one; Tune waits for ever
LOOK = 5.0  # seconds between two looks at nodes

_turn = threading.Lock()  # Tune knows a process's trainables, with what they were given, by the names of their classes

ONE_CPU: Mapping[str, float] = {"CPU": 1}


def gpus() -> int:
    """GPUs of the cluster that this process is connected to.

    Raises:
        UserError: there is none.
    """
    if count := int(ray.cluster_resources().get("GPU", 0)):
        return count
    raise UserError("Ray has no GPU to fit heads on", where="run.head_device", expected="cpu")


def run_trials(
    trials: Sequence[Trial],
    function: TrialFunction,
    *,
    name: str,
    storage: Path,
    resources: Mapping[str, float] = ONE_CPU,
    max_concurrent: int | None = None,
    retries: int = LOST_WORKERS,
    done: Callable[[Trial], None] = lambda trial: None,
    patience: float = PATIENCE,
) -> None:
    """Run every trial on the Ray that this process is connected to; the same results as `trials.run_inline`.

    Calls from several threads take turns.

    Args:
        trials: what to run; worker processes start once and take one trial after the other.
        function: importable by the workers, or picklable.
        name: of Tune's directory below `storage`, new for each call (Tune resumes an old one silently).
        storage: where Tune keeps its own state meanwhile; seen by all nodes.
        resources: reserved for each trial, by Ray's names.
        max_concurrent: trials at once; as many as the cluster's CPUs allow when None.
        retries: times at least that a trial is begun anew because its process or machine was lost.
        done: called in this process after each trial that did not fail.
        patience: seconds that no node may have room for a trial.

    Raises:
        TrialsFailed: at the end, naming every trial that failed or never ran.
        UserError: there is no room, as where nodes were lost.
    """
    if not trials:
        return
    watch = _Watch(trials, done, _Room(resources, patience))
    left: Sequence[int] = range(len(trials))
    for again in range(retries + 1):
        _tune(
            tune.with_parameters(_OneByOne, trials=list(trials), function=function),
            left,
            tune.PlacementGroupFactory([dict(resources)]),
            tune.TuneConfig(reuse_actors=True, max_concurrent_trials=max_concurrent),
            tune.RunConfig(
                name=f"{name}-{again}",
                storage_path=str(storage),
                verbose=0,
                callbacks=[watch],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=retries - again),
            ),
        )
        # Tune gives a trial up whose machine is lost while it waits to be begun anew (a loss is told twice, by the
        # call and by the process), whatever max_failures says
        left = [number for number in left if number not in watch.outcomes]
        if not left:
            break
    reasons = {number: watch.lost.get(number, "it never ran") for number in left}
    reasons |= {number: reason for number, reason in watch.outcomes.items() if reason}
    if reasons:
        raise TrialsFailed({trials[number].name: reasons[number] for number in sorted(reasons)})


def _tune(
    trainable: Any,
    numbers: Sequence[int],
    resources: tune.PlacementGroupFactory,
    scheduling: tune.TuneConfig,
    run: tune.RunConfig,
) -> None:
    try:
        with _turn, _quiet():
            tune.Tuner(
                tune.with_resources(trainable, resources),
                param_space={"number": tune.grid_search(list(numbers))},
                tune_config=scheduling,
                run_config=run,
            ).fit()
    finally:
        shutil.rmtree(Path(str(run.storage_path), str(run.name)), ignore_errors=True)


class _Watch(tune.Callback):
    """Follows the trials from the driver: `outcomes` maps a trial that has ended to why it failed, or ""; `lost` maps
    one that Tune has given up to how its process ended."""

    def __init__(self, trials: Sequence[Trial], done: Callable[[Trial], None], room: "_Room") -> None:
        self.outcomes: dict[int, str] = {}
        self.lost: dict[int, str] = {}
        self._trials = trials
        self._done = done
        self._room = room

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        self._room.check()

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        number, reason = trial.config["number"], trial.last_result["reason"]
        self.outcomes[number] = reason
        if not reason:
            self._done(self._trials[number])

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.lost[trial.config["number"]] = _last_line(Path(trial.error_file).read_text())


class _Room:
    """Whether a node is large enough for a trial, looked at now and then."""

    def __init__(self, resources: Mapping[str, float], patience: float) -> None:
        self._resources, self._patience = resources, patience
        self._next = 0.0
        self._since: float | None = None

    def check(self) -> None:
        """Raises UserError where none has been for too long."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + min(LOOK, self._patience)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fits = any(all(node.get(name, 0) >= amount for name, amount in self._resources.items()) for node in nodes)
        self._since = None if fits else self._since or now
        if self._since and now - self._since >= self._patience:
            need = " and ".join(f"{amount:g} {name}" for name, amount in self._resources.items())
            raise UserError(
                f"for {self._patience / 60:.0f} minutes the cluster has had no node with {need}, as a trial needs",
                expected="nodes that come back; then the same command goes on from the trials that are finished",
            )


class _OneByOne(tune.Trainable):
    """A process that runs one trial after the other, each in a single call: a function given to Tune takes two, and a
    thread of its own, which doubles what a trial costs."""

    def setup(self, config: dict[str, Any], trials: Sequence[Trial], function: TrialFunction) -> None:
        self.number, self.trials, self.function = config["number"], trials, function

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.number = new_config["number"]
        return True

    def step(self) -> dict[str, Any]:
        """A failure is reported, not raised: the process stays for the next trial, and Tune prints no traceback."""
        reason = ""
        try:
            self.function(self.trials[self.number])
        except Exception as error:
            reason = describe(error)
        return {"reason": reason, "done": True}


def _last_line(text: str) -> str:
    return [line.strip() for line in text.splitlines() if line.strip()][-1]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Tune's own account of failed trials, which are named by the exception."""
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
