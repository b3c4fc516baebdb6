"""The learning rate as a closed form of the step."""

import math


def learning_rate(step: int, steps: int, warmup_steps: int, peak: float) -> float:
    """Rate of a step counted from 0: linear to `peak` over `warmup_steps`, then a cosine to 0 at `steps`."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return 0.5 * peak * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))
