"""The feeding log: what was really fed to an arm, as the audit will read it.

<attempt>/fed/rank-0-000000120.arrow holds the records since the last flush, up to step 120: step, place in the global
batch, hash of the key as read from the tar member's own header, label fed, weight. Undecodable images are named in
holes-<rank>.jsonl: step, place, key, reason, and the key whose image filled the place.

Where the workers of an attempt are started again, what they had fed beyond the step they go on from is moved to
<attempt>/fed/replayed-1/ (2, ...), so that the files beside it are those that count, whatever the number of workers.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import feather

from nml_ray.data.loader import Hole, Microbatch
from nml_ray.storage.atomic import sync_directory

FOLDER = "fed"


class FeedingLog:
    """Collects the records of one rank for all arms of a group; `flush` puts them on storage."""

    def __init__(self, attempts: Sequence[Path], rank: int, keys: Callable[[int], str]) -> None:
        self._attempts = attempts
        self._keys = keys
        self._rank = rank
        self._steps: list[NDArray[np.int64]] = []
        self._batches: list[Microbatch] = []

    def add(self, step: int, microbatches: Sequence[Microbatch]) -> None:
        """Note the microbatches that this step fed to the model."""
        for microbatch in microbatches:
            self._steps.append(np.full(len(microbatch.places), step))
            # The pixels would keep whole epochs in memory.
            self._batches.append(_without_images(microbatch))
            for hole in microbatch.holes:
                self._note(step, hole)

    def _note(self, step: int, hole: Hole) -> None:
        filler = self._keys(hole.filler) if hole.filler >= 0 else None
        facts = {"step": step, "place": hole.place, "key": self._keys(hole.number), "reason": hole.reason}
        for attempt in self._attempts:
            with open(attempt / f"holes-{self._rank}.jsonl", "a") as file:
                file.write(json.dumps({**facts, "filler": filler}, ensure_ascii=False) + "\n")

    def flush(self, step: int, given: Sequence[NDArray[np.int64]]) -> None:
        """Write all that was fed before `step`, with each arm's labels; before the checkpoint of `step` commits."""
        if not self._batches:
            return
        numbers = np.concatenate([batch.numbers for batch in self._batches])
        shared = {
            "step": np.concatenate(self._steps),
            "place": np.concatenate([batch.places for batch in self._batches]),
            "key_hash": np.concatenate([batch.hashes for batch in self._batches]),
            "weight": np.concatenate([batch.weights for batch in self._batches]),
        }
        for attempt, labels in zip(self._attempts, given, strict=True):
            folder = attempt / FOLDER
            folder.mkdir(exist_ok=True)
            aside = folder / f".aside-{self._rank}"
            feather.write_feather(pa.table({**shared, "label": labels[numbers]}), aside, compression="lz4")
            with open(aside, "rb") as written:
                os.fsync(written.fileno())
            aside.rename(folder / f"rank-{self._rank}-{step:09d}.arrow")
            sync_directory(folder)
            self._sync_holes(attempt)
        self._steps, self._batches = [], []

    def _sync_holes(self, attempt: Path) -> None:
        holes = attempt / f"holes-{self._rank}.jsonl"
        if holes.exists():
            with open(holes, "rb") as file:
                os.fsync(file.fileno())
        sync_directory(attempt)


def set_replayed_aside(attempt: Path, step: int) -> None:
    """Move what earlier workers of this attempt fed from `step` on out of the way; before any worker flushes.

    `step` is that of a checkpoint, so a file lies wholly before it or after it.
    """
    folder = attempt / FOLDER
    replayed = [path for path in folder.glob("rank-*-*.arrow") if int(path.stem.rpartition("-")[2]) > step]
    if not replayed:
        return
    aside = folder / f"replayed-{1 + len(list(folder.glob('replayed-*')))}"
    aside.mkdir()
    for path in replayed:
        path.rename(aside / path.name)


def _without_images(microbatch: Microbatch) -> Microbatch:
    return Microbatch(
        microbatch.places,
        microbatch.numbers,
        microbatch.images[:0],
        microbatch.weights,
        microbatch.hashes,
        microbatch.holes,
    )
