"""Autocast, and the scale that keeps float16 gradients from vanishing."""

from nml_ray.models.device import Precision, autocast

__all__ = ["LossScale", "Precision", "autocast"]

START = 2.0**16  # these four as in torch.amp.GradScaler
GROWTH = 2.0
BACKOFF = 0.5
GROWTH_STEPS = 2000
SMALLEST = 2.0**-32  # of the mean loss; a gradient that overflows even here is not finite at all


class LossScale:
    """What a float16 run multiplies its loss by: halved when a gradient is not finite (that step is skipped), doubled
    after 2000 steps in a row that are.

    The loss of a step is a sum over the batch here, so the scale starts at 2^16 over the batch, as a power of two.
    """

    def __init__(self, batch: int) -> None:
        self._batch = 2.0 ** (batch - 1).bit_length()
        self.scale = START / self._batch
        self.good_steps = 0

    def update(self, finite: bool) -> None:
        """Note whether the gradient of a step was finite."""
        if not finite:
            self.scale, self.good_steps = self.scale * BACKOFF, 0
            return
        self.good_steps += 1
        if self.good_steps == GROWTH_STEPS:
            self.scale, self.good_steps = self.scale * GROWTH, 0

    @property
    def exhausted(self) -> bool:
        """Whether the scale has fallen so far that the gradient itself must be at fault."""
        return self.scale * self._batch < SMALLEST

    def state(self) -> dict[str, float]:
        """Plain data for a checkpoint."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what `state` gave."""
        self.scale, self.good_steps = state["scale"], int(state["good_steps"])
