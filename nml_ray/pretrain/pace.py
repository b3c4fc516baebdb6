"""When checkpoints are made: by steps and by time, after the same step on every worker."""

from time import monotonic

import torch

from nml_ray.pretrain.world import World


class Pace:
    """Every `steps` steps, and as soon as `minutes` have passed since the last checkpoint (0: never for that).

    Clocks differ, so rank 0's counts; the others learn what it says from one number that is summed at each step.
    """

    def __init__(self, steps: int, minutes: float, world: World) -> None:
        self._steps, self._seconds, self._world = steps, 60 * minutes, world
        self._since = monotonic()

    def due(self, step: int) -> bool:
        """Whether there is to be one after `step` steps; all workers ask after each step."""
        due = step % self._steps == 0 or self._time_is_up()
        if due:
            self._since = monotonic()
        return due

    def _time_is_up(self) -> bool:
        if not self._seconds:
            return False
        up = self._world.rank == 0 and monotonic() - self._since >= self._seconds
        return bool(self._world.sum_(torch.tensor([float(up)])).item())
