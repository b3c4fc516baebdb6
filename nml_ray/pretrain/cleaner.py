"""Ray Train's watch over a run's placement group, an actor that outlives the run's controller, mended: it ends.

Ray's own asks for the state of the controller at whatever Ray it finds on the machine; where another one runs there,
that is an error which ends the watch but not its process. On a cluster that goes on, each run that was stopped would
leave one for ever.
"""

import os

import ray
from ray.train.v2._internal.callbacks import placement_group_callback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller.placement_group_cleaner import PlacementGroupCleaner


class Cleaner(PlacementGroupCleaner):
    """Asks the Ray that it is a part of."""

    def _monitor_loop(self) -> None:
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        super()._monitor_loop()


class CleanerCallback(PlacementGroupCleanerCallback):
    """Starts a `Cleaner`; runs in the controller's process."""

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Start it."""
        placement_group_callback.PlacementGroupCleaner = Cleaner
        super().after_controller_start(train_run_context)


def mended(callbacks: list[RayTrainCallback]) -> list[RayTrainCallback]:
    """A trainer's callbacks with ours in place of Ray's."""
    return [CleanerCallback() if isinstance(one, PlacementGroupCleanerCallback) else one for one in callbacks]
