"""What a run tells while it trains: JSON lines for people and tools, the epochs' curves as Parquet at the end."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from nml_ray.data.loader import LoaderTimers

EVERY_SECONDS = 2.0


class Telemetry:
    """Appends one line to `telemetry.jsonl` of every arm at most every two seconds; rank 0 only.

    `data_wait_share` is that of the time since the last line. The loader's seconds (`LoaderTimers`) count from the
    start of the process; those of reading and decoding are summed over its threads.
    """

    def __init__(self, attempts: Sequence[Path], timers: LoaderTimers, batch: int) -> None:
        self._files = [open(attempt / "telemetry.jsonl", "a", buffering=1) for attempt in attempts]
        self._timers = timers
        self._batch = batch
        self._since, self._steps, self._waited = time.perf_counter(), 0, 0.0

    def step(self, step: int, epoch: int, rate: float, losses: Sequence[float | None]) -> None:
        """Note one step; `losses` are the arms' mean losses, None for an arm that has ended."""
        self._steps += 1
        elapsed = time.perf_counter() - self._since
        if elapsed < EVERY_SECONDS:
            return
        shared = {
            "step": step,
            "epoch": epoch,
            "learning_rate": rate,
            "images_per_second": round(self._steps * self._batch / elapsed, 1),
            "data_wait_share": round((self._timers.wait - self._waited) / elapsed, 4),
            "wait_seconds": round(self._timers.wait, 3),
            "read_seconds": round(self._timers.read, 3),
            "decode_seconds": round(self._timers.decode, 3),
            "copy_seconds": round(self._timers.copy, 3),
        }
        for file, loss in zip(self._files, losses, strict=True):
            if loss is not None:
                file.write(json.dumps({**shared, "loss": loss}) + "\n")
        self._since, self._steps, self._waited = time.perf_counter(), 0, self._timers.wait

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


CURVES = pa.schema(
    [
        ("epoch", pa.int64()),
        *(
            (name, pa.float64())
            for name in (
                *("loss_clean", "accuracy_clean", "loss_flipped", "accuracy_flipped", "recovered_flipped"),
                *("validation_loss", "validation_accuracy", "zero_shot", "zero_shot_top5"),
            )
        ),
    ]
)


def write_curves(attempt: Path, curves: Sequence[dict[str, Any]]) -> None:
    """One row an epoch: loss and accuracy on clean and on flipped samples, and on validation images."""
    parquet.write_table(pa.Table.from_pylist(list(curves), schema=CURVES), attempt / "curves.parquet")
