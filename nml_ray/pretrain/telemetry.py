"""What a run tells while it trains: JSON lines for people and tools, the epochs' curves as Parquet at the end."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from pyarrow import parquet

from nml_ray.data.loader import LoaderTimers
from nml_ray.pretrain.counts import finite
from nml_ray.pretrain.hardware import Utilisation, memory
from nml_ray.pretrain.trackers import Tracker
from nml_ray.storage.atomic import write_bytes

EVERY_SECONDS = 2.0
CPU = torch.device("cpu")


class Telemetry:
    """Appends lines to `telemetry.jsonl` of every arm: at most one every two seconds, and one an epoch; rank 0 only.

    `data_wait_share` and `images_per_second` are those of the time since the last line. The loader's seconds
    (`LoaderTimers`) count from the start of the process; those of reading and decoding are summed over its threads.
    `checkpoint_seconds` are those that the loop has stood still for checkpoints, also from the start.
    `gradient_norm` is the last step's, before clipping. `mfu` is there on CUDA devices, null where the device's peak is
    not known. What is not finite is null.

    Args:
        attempts: of the arms; none on other ranks.
        timers: of the loader.
        batch: global.
        device: of the models.
        utilisation: of the device, where it is known.
        trackers: of each arm; they get the figures of its lines, as train/<name> and epoch/<name>.
        start: the step that comes first; what earlier workers of an attempt told from it on goes.
    """

    def __init__(
        self,
        attempts: Sequence[Path],
        timers: LoaderTimers,
        batch: int,
        device: torch.device = CPU,
        utilisation: Utilisation | None = None,
        trackers: Sequence[Sequence[Tracker]] = (),
        start: int = 0,
    ) -> None:
        for attempt in attempts:
            _go_back(attempt / "telemetry.jsonl", start)
        self._files = [open(attempt / "telemetry.jsonl", "a", buffering=1) for attempt in attempts]
        self._timers, self._batch = timers, batch
        self._device, self._utilisation = device, utilisation
        self._trackers = trackers or [()] * len(attempts)
        self._checkpoints = 0.0
        self._since, self._steps, self._waited = time.perf_counter(), 0, 0.0

    @contextmanager
    def checkpointing(self) -> Iterator[None]:
        """Inside, the loop stands still for a checkpoint."""
        began = time.perf_counter()
        yield
        self._checkpoints += time.perf_counter() - began

    def step(self, step: int, epoch: int, rate: float, losses: Sequence[float | None], norms: Sequence[float]) -> None:
        """Note one step; `losses` are the arms' mean losses, None for an arm that has ended; `norms` of gradients."""
        self._steps += 1
        elapsed = time.perf_counter() - self._since
        if elapsed < EVERY_SECONDS:
            return
        images_per_second = self._steps * self._batch / elapsed
        shared: dict[str, Any] = {
            "step": step,
            "epoch": epoch,
            "learning_rate": rate,
            "images_per_second": round(images_per_second, 1),
            "data_wait_share": round((self._timers.wait - self._waited) / elapsed, 4),
            "wait_seconds": round(self._timers.wait, 3),
            "read_seconds": round(self._timers.read, 3),
            "decode_seconds": round(self._timers.decode, 3),
            "copy_seconds": round(self._timers.copy, 3),
            "checkpoint_seconds": round(self._checkpoints, 3),
            **memory(self._device),
        }
        if self._device.type == "cuda":
            arms = sum(loss is not None for loss in losses)
            of = self._utilisation
            shared["mfu"] = round(of.share(images_per_second, arms), 4) if of else None
        for number, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
            if loss is not None:
                self._write(number, step, "train", {**shared, "loss": loss, "gradient_norm": norm})
        self._since, self._steps, self._waited = time.perf_counter(), 0, self._timers.wait

    def end_epoch(self, step: int, curves: Sequence[Mapping[str, Any] | None]) -> None:
        """Write each arm's curve of the epoch that ended with this step; None for an arm that has ended."""
        for number, curve in enumerate(curves):
            if curve is not None:
                self._write(number, step, "epoch", {"step": step, "epoch_ended": True, **curve})

    def _write(self, arm: int, step: int, group: str, figures: Mapping[str, Any]) -> None:
        line = finite(figures)
        self._files[arm].write(json.dumps(line) + "\n")
        told = {
            name: value for name, value in line.items() if name not in ("step", "epoch_ended") and value is not None
        }
        for tracker in self._trackers[arm]:
            tracker.log(step, {f"{group}/{name}": float(value) for name, value in told.items()})

    def close(self) -> None:
        """Close files and trackers."""
        for file in self._files:
            file.close()
        for trackers in self._trackers:
            for tracker in trackers:
                tracker.close()


def _go_back(path: Path, start: int) -> None:
    """Drop the lines of steps from `start` on, which will come again, and those that a crash tore.

    The file is a new one in any case: who still has the old one open writes no more to this.
    """
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)
        write_bytes(path, b"".join(line for line in lines if _comes_before(line, start)))


def _comes_before(line: bytes, start: int) -> bool:
    try:
        step: int = json.loads(line)["step"]
    except ValueError:
        return False
    return step < start and line.endswith(b"\n")


CURVES = pa.schema(
    [
        ("epoch", pa.int64()),
        *(
            (name, pa.float64())
            for name in (
                *("loss_clean", "accuracy_clean", "loss_flipped", "accuracy_flipped", "recovered_flipped"),
                *("samples_flipped", "fitted_flipped"),
                *("validation_loss", "validation_accuracy", "zero_shot", "zero_shot_top5"),
            )
        ),
    ]
)


def write_curves(attempt: Path, curves: Sequence[dict[str, Any]]) -> None:
    """One row an epoch: loss and accuracy on clean and on flipped samples, and on validation images."""
    parquet.write_table(pa.Table.from_pylist(list(curves), schema=CURVES), attempt / "curves.parquet")
