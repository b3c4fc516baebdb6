"""The feeding log: what was really fed to an arm, as the audit will read it.

<attempt>/fed/rank-0-000000120.arrow holds the records since the last checkpoint, up to step 120: step, place in the
global batch, hash of the key as read from the tar member's own header, label fed, weight. Undecodable images are named
in holes-<rank>.jsonl: step, place, key, reason, and the key whose image filled the place.

Where the workers of an attempt are started again, what they had fed beyond the step they go on from is moved to
<attempt>/fed/replayed-1/ (2, ...), so that the files beside it are those that count, whatever the number of workers.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nml_ray.data.loader import Hole, Microbatch
from nml_ray.pretrain.resume import FOLDER as CHECKPOINTS
from nml_ray.pretrain.resume import committed, retire, step_of
from nml_ray.storage.atomic import sync_directory

FOLDER = "fed"
_ASIDE = ".aside-"
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
    """The records of one rank for all arms of a group; `cut` ends a part, which is then finished.

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
        self._asides: list[Path] = []

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
            line = json.dumps({**facts, "filler": filler}, ensure_ascii=False)
            _append(attempt / f"holes-{self._rank}.jsonl", line.encode() + b"\n")

    def _write(self) -> None:
        """Append what is held to the files of the arms, which have no name of the log yet."""
        if not self._held:
            return
        if not self._writers:
            self._asides = [_aside(attempt) for attempt in self._attempts]
            self._writers = [_open(aside) for aside in self._asides]
        *shared, numbers = (np.concatenate(column) for column in zip(*self._held, strict=True))
        for writer, labels in zip(self._writers, self._given, strict=True):
            arrays = [pa.array(column) for column in (*shared, labels[numbers].astype(np.int64))]
            writer.write_table(pa.table(arrays, schema=SCHEMA), PART)
        self._held, self._records = [], 0

    def cut(self, step: int) -> "Cut":
        """End the files of all that was fed before `step`; what is fed from now on goes to others."""
        self._write()
        for writer in self._writers:
            writer.close()
        asides, self._writers, self._asides = tuple(self._asides), [], []
        return Cut(self._rank, step, tuple(self._attempts), asides)


def _aside(attempt: Path) -> Path:
    """A file that no other process has: an earlier one of this rank may still be at work on its own."""
    return attempt / FOLDER / f"{_ASIDE}{uuid4().hex[:12]}"


def _open(aside: Path) -> pa.RecordBatchFileWriter:
    aside.parent.mkdir(exist_ok=True)
    return pa.ipc.new_file(str(aside), SCHEMA, options=pa.ipc.IpcWriteOptions(compression="lz4"))


@dataclass(frozen=True)
class Cut:
    """What one rank fed between two checkpoints, written, but not yet under its name; `asides` by attempt, or none."""

    rank: int
    step: int
    attempts: tuple[Path, ...]
    asides: tuple[Path, ...]

    def finish(self) -> None:
        """Put the files on storage for good, under their names; before the checkpoint of `step` commits."""
        for attempt, aside in zip(self.attempts, self.asides, strict=False):
            _sync(aside)
            aside.rename(part_path(attempt, self.rank, self.step))
            sync_directory(aside.parent)
            holes = attempt / f"holes-{self.rank}.jsonl"
            if holes.exists():
                _sync(holes)
            sync_directory(attempt)


def part_path(attempt: Path, rank: int, step: int) -> Path:
    """Where the records of one rank up to a step lie."""
    return attempt / FOLDER / f"rank-{rank}-{step:09d}.arrow"


def _append(path: Path, line: bytes) -> None:
    """Append a line; one that a crash cut short before it ends first."""
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def set_replayed_aside(attempt: Path, step: int) -> None:
    """Move what earlier workers of this attempt fed from `step` on out of the way; before any worker cuts its log.

    `step` is that of a checkpoint, so a file lies wholly before it or after it. Later checkpoints go: an arm may have
    one that the others have not, and without its log it counts for nothing. So does what was only written aside.
    """
    for aside in (attempt / CHECKPOINTS).glob("aside-*"):
        shutil.rmtree(aside, ignore_errors=True)
    for file in (attempt / FOLDER).glob(f"{_ASIDE}*"):
        file.unlink(missing_ok=True)
    for checkpoint in committed(attempt):
        if step_of(checkpoint) > step:
            retire(checkpoint)
    folder = attempt / FOLDER
    replayed = [path for path in folder.glob("rank-*-*.arrow") if int(path.stem.rpartition("-")[2]) > step]
    if not replayed:
        return
    aside = folder / f"replayed-{1 + len(list(folder.glob('replayed-*')))}"
    aside.mkdir()
    for path in replayed:
        path.rename(aside / path.name)
