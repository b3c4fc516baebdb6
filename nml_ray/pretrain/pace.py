"""When checkpoints are made: by steps, by time and on demand, after the same step on every worker."""

from collections.abc import Callable
from time import monotonic

import torch

from nml_ray.pretrain.world import World

ASK_EVERY = 4  # steps; workers that ask each other wait for each other


class Pace:
    """Every `steps` steps, as soon as `minutes` have passed since the last checkpoint (0: never for that), and when
    `wanted` says so.

    Clocks differ, so rank 0's counts, and `wanted` is asked there; the others learn what it says from one number that
    is summed after every fourth step. A worker that is alone asks after each.
    """

    def __init__(self, steps: int, minutes: float, world: World, wanted: Callable[[], bool] | None = None) -> None:
        self._steps, self._seconds, self._world, self._wanted = steps, 60 * minutes, world, wanted
        self._since = monotonic()

    def due(self, step: int) -> bool:
        """Whether there is to be one after `step` steps; all workers ask after each step."""
        due = step % self._steps == 0 or self._is_called_for(step)
        if due:
            self._since = monotonic()
        return due

    def _is_called_for(self, step: int) -> bool:
        if (not self._seconds and self._wanted is None) or (self._world.size > 1 and step % ASK_EVERY):
            return False
        now = self._world.rank == 0 and (self._time_is_up() or (self._wanted is not None and self._wanted()))
        return bool(self._world.sum_(torch.tensor([float(now)])).item())

    def _time_is_up(self) -> bool:
        return self._seconds > 0 and monotonic() - self._since >= self._seconds
