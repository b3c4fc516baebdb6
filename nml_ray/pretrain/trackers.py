"""Trackers: where the figures of an arm go beside its own files. Each is imported only where it is asked for."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, get_args

from nml_ray.config.errors import UserError
from nml_ray.pretrain.tracker_names import TrackerName, missing_tracker

EXPERIMENT = "nml_ray"


class Tracker(Protocol):
    """One run of one arm."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Note figures by name at a step."""

    def close(self) -> None:
        """Leave everything where it belongs."""


def open_trackers(names: Sequence[str], arm: str, attempt: Path, start: int) -> list[Tracker]:
    """The trackers of an arm in training from step `start` on.

    Raises:
        UserError: a package is not installed on this machine, or there is no such tracker.
    """
    known = [name for name in get_args(TrackerName) if name in names]
    if missing := missing_tracker(known):
        raise UserError(missing, where="run.trackers")
    opened: dict[str, Callable[[str, Path, int], Tracker]] = {
        "tensorboard": TensorBoard,
        "mlflow": MLflow,
        "wandb": WeightsAndBiases,
    }
    return [opened[name](arm, attempt, start) for name in known]


class TensorBoard:
    """Event files in <attempt>/tensorboard; each line is on its way to the disk when `log` returns."""

    def __init__(self, arm: str, attempt: Path, start: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        directory = attempt / "tensorboard"
        directory.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(directory / "events"), f".{os.getpid()}")
        begun = event_pb2.SessionLog(status=event_pb2.SessionLog.START)  # takes back what was logged beyond `start`
        self._write(step=start, session_log=begun)

    def _write(self, **fields: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), **fields))
        self._writer.flush()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one event."""
        scalars = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=self._summary(value=scalars))

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class MLflow:
    """A run on the server, or in the directory, of MLFLOW_TRACKING_URI, in the experiment MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, arm: str, attempt: Path, start: int) -> None:
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self._metric, self._client = Metric, MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        tags = {"attempt": str(attempt), "from_step": str(start)}
        self._run = self._client.create_run(number, run_name=arm, tags=tags).info.run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send one batch of metrics from another thread: a slow server holds nobody up."""
        now = int(1000 * time.time())
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics, synchronous=False)

    def close(self) -> None:
        """Wait until everything is sent, and end the run."""
        from mlflow import flush_async_logging

        flush_async_logging()
        self._client.set_terminated(self._run)


class WeightsAndBiases:
    """A run of the project WANDB_PROJECT; WANDB_MODE=offline keeps it in <attempt>/wandb."""

    def __init__(self, arm: str, attempt: Path, start: int) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", EXPERIMENT),
            name=arm,
            dir=str(attempt),
            config={"attempt": str(attempt), "from_step": start},
            reinit="create_new",
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send figures; those of one step together."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Upload what is left and end the run."""
        self._run.finish()
