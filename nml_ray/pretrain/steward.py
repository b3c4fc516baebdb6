"""What the controller of an elastic Ray Train run is taught: a class that runs inside that actor.

By itself Ray resizes a run at any step, counts all deaths of weeks against one limit, and waits for ever where too few
nodes are left. That a node is dead it knows after some 15 seconds; until then it tries for a minute to start as many
workers as before.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from ray.train import WorkerGroupError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import (
    PreemptingState,
    ResizingState,
    RestartingState,
    RunningState,
    TrainControllerState,
)

from nml_ray.pretrain.notice import ask, newest

ASK_SECONDS = 60.0  # most that a resize waits for a checkpoint
LOOK_EVERY = 0.5  # seconds between two looks at a cluster with too few nodes


class Steward(ControllerCallback):
    """Has a checkpoint made before a resize, and ends a run that gets nowhere.

    Args:
        attempts: of the group's arms.
        deaths: of workers in a row, without a checkpoint between, that the run survives.
        patience: seconds without running workers after which it ends.
    """

    def __init__(self, attempts: Sequence[Path], deaths: int, patience: float) -> None:
        self._attempts, self._most, self._patience = attempts, deaths, patience
        self._deaths, self._progress = 0, 0
        self._ran: float | None = None

    def after_controller_state_update(self, previous: TrainControllerState, current: TrainControllerState) -> None:
        """Follow the run; an error raised here ends it."""
        if isinstance(current, RunningState | PreemptingState):
            self._ran = None
            return
        if isinstance(current, ResizingState):
            ask(self._attempts, ASK_SECONDS)
        if isinstance(current, RestartingState) and current is not previous:
            self._count(current.training_failed_error)
        if current is previous:  # the policy found too few nodes; it asks again at once
            time.sleep(LOOK_EVERY)
        self._be_patient()

    def _count(self, error: Exception) -> None:
        if not isinstance(error, WorkerGroupError):
            return
        reached = newest(self._attempts)
        self._deaths = self._deaths + 1 if reached == self._progress else 1
        self._progress = reached
        if self._deaths > self._most:
            raise error

    def _be_patient(self) -> None:
        now = time.monotonic()
        self._ran = self._ran or now
        if now - self._ran > self._patience:
            raise TimeoutError(f"no workers could be started for {self._patience:.0f} s")
