"""The training loop in this process, to its end or to a chosen point."""

from nml_ray.pretrain.loop import train_group
from nml_ray.pretrain.world import World


class Killed(Exception):
    """Stands for the process's death at a chosen point of the loop."""


def train(plan, until_images=None):
    """Train a group; `Killed` once so many images have been fed."""

    def report(done, total, unit):
        if until_images is not None and done >= until_images:
            raise Killed

    return train_group(plan, World(), report)
