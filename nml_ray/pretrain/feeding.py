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
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nml_ray.data.loader import Hole, Microbatch
from nml_ray.storage.atomic import sync_directory

FOLDER = "fed"
PART = 1 << 16  # records held in memory, and of a record batch
SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64()),
        pa.field("place", pa.int64()),
        pa.field("key_hash", pa.uint64()),
        pa.field("weight", pa.float32()),
        pa.field("label", pa.int64()),
    ]
)


class FeedingLog:
    """The records of one rank for all arms of a group; `flush` puts them on storage under their name.

    Args:
        attempts: of the arms.
        rank: of this worker.
        keys: the key of a sample number.
        given: each arm's labels by sample number, int[N].
    """

    def __init__(
        self,
        attempts: Sequence[Path],
        rank: int,
        keys: Callable[[int], str],
        given: Sequence[NDArray[np.signedinteger]],
    ) -> None:
        self._attempts, self._rank, self._keys, self._given = attempts, rank, keys, given
        self._held: list[tuple[NDArray[Any], ...]] = []  # step, place, hash, weight, number
        self._records = 0
        self._writers: list[pa.RecordBatchFileWriter] = []

    def add(self, step: int, microbatches: Sequence[Microbatch]) -> None:
        """Note the microbatches that this step fed to the model."""
        for microbatch in microbatches:
            columns = (microbatch.places, microbatch.hashes, microbatch.weights, microbatch.numbers)
            self._held.append((np.full(len(microbatch.places), step), *columns))
            self._records += len(microbatch.places)
            for hole in microbatch.holes:
                self._note(step, hole)
        if self._records >= PART:
            self._write()

    def _note(self, step: int, hole: Hole) -> None:
        filler = self._keys(hole.filler) if hole.filler >= 0 else None
        facts = {"step": step, "place": hole.place, "key": self._keys(hole.number), "reason": hole.reason}
        for attempt in self._attempts:
            with open(attempt / f"holes-{self._rank}.jsonl", "a") as file:
                file.write(json.dumps({**facts, "filler": filler}, ensure_ascii=False) + "\n")

    def _write(self) -> None:
        """Append what is held to the files of the arms, which have no name of the log yet."""
        if not self._held:
            return
        if not self._writers:
            self._writers = [self._open(attempt) for attempt in self._attempts]
        *shared, numbers = (np.concatenate(column) for column in zip(*self._held, strict=True))
        for writer, labels in zip(self._writers, self._given, strict=True):
            arrays = [pa.array(column) for column in (*shared, labels[numbers].astype(np.int64))]
            writer.write_table(pa.table(arrays, schema=SCHEMA), PART)
        self._held, self._records = [], 0

    def _open(self, attempt: Path) -> pa.RecordBatchFileWriter:
        self._aside(attempt).parent.mkdir(exist_ok=True)
        return pa.ipc.new_file(str(self._aside(attempt)), SCHEMA, options=pa.ipc.IpcWriteOptions(compression="lz4"))

    def _aside(self, attempt: Path) -> Path:
        return attempt / FOLDER / f".aside-{self._rank}"

    def flush(self, step: int) -> None:
        """Finish the file of all that was fed before `step`; before the checkpoint of `step` commits."""
        self._write()
        for attempt, writer in zip(self._attempts, self._writers, strict=False):
            writer.close()
            aside = self._aside(attempt)
            with open(aside, "rb") as written:
                os.fsync(written.fileno())
            aside.rename(aside.with_name(f"rank-{self._rank}-{step:09d}.arrow"))
            sync_directory(aside.parent)
            self._sync_holes(attempt)
        self._writers = []

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
