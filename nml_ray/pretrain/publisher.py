"""Feeding logs and checkpoints on their way to an object store, behind the committer's back.

There a checkpoint of step s exists only after every rank's log up to s does, as on a disk; rank 0 learns that from the
store. While an upload lasts, checkpoints may pile up: then the newest is sent, and those between are left out.
"""

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from nml_ray.pretrain.best import BEST as BEST_FOLDER
from nml_ray.pretrain.best import KEPT
from nml_ray.pretrain.resume import FOLDER as CHECKPOINT_FOLDER
from nml_ray.pretrain.resume import checkpoint_name
from nml_ray.storage.artifact import Attempt
from nml_ray.storage.bundle import Bundles
from nml_ray.storage.twin import BEST, CHECKPOINTS, FED, twin_of

if TYPE_CHECKING:
    from nml_ray.pretrain.checkpoint import Snapshot
    from nml_ray.pretrain.feeding import Cut

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class _Checkpoint:
    """A committed checkpoint of one attempt, in files of its own (hard links): retention may take the others away."""

    attempt: Path
    step: int
    files: Path
    best: bool


@dataclass(frozen=True)
class _Part:
    """What is uploaded of one step: the log up to it, with a copy of each attempt's list of holes, and checkpoints."""

    cut: "Cut"
    holes: Sequence[Path | None]
    checkpoints: Sequence[_Checkpoint]


class Publisher:
    """One thread that uploads what has been submitted meanwhile, all logs and then the newest checkpoints, and begins
    anew; the loop never waits for it but at its end.

    Args:
        ranks: of the run; rank 0 submits the snapshots.
        keep: newest checkpoints that stay.
        check: called before anything is uploaded; what it raises ends the uploads.
    """

    def __init__(self, ranks: int, keep: int, check: Callable[[], None] = lambda: None) -> None:
        self._ranks, self._keep, self._check = ranks, keep, check
        self._submitted: SimpleQueue[_Part | None] = SimpleQueue()
        self._error: Exception | None = None
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._work, name="publish", daemon=True)
        self._thread.start()

    @classmethod
    def of(
        cls, attempts: Sequence[Path], ranks: int, keep: int, check: Callable[[], None] = lambda: None
    ) -> "Publisher | None":
        """For attempts whose storage is on an object store; None for others."""
        return cls(ranks, keep, check) if twin_of(attempts[0]) else None

    def submit(self, cut: "Cut", snapshots: "Sequence[Snapshot]") -> None:
        """Upload a rank's log up to a step and, on rank 0, the checkpoints that were committed of it.

        Raises:
            UserError: an upload before this one failed.
        """
        self.check()
        holes = [_copied_holes(attempt, cut) for attempt in cut.attempts]
        self._submitted.put(_Part(cut, holes, [_held(snapshot) for snapshot in snapshots]))

    def check(self) -> None:
        """Raise what ended the uploads."""
        if self._error:
            raise self._error

    def close(self, abandoned: bool = False) -> None:
        """Finish what was submitted; `abandoned` where the other ranks may be gone. `check` tells of failures."""
        if abandoned:
            self._abandoned.set()
        self._submitted.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            while (first := self._submitted.get()) is not None:
                parts: list[_Part | None] = [first]
                while not self._submitted.empty():
                    parts.append(self._submitted.get())
                self._publish([part for part in parts if part])
                if parts[-1] is None:
                    return
        except Exception as error:
            self._error = error

    def _publish(self, parts: Sequence[_Part]) -> None:
        self._check()
        for part in parts:
            for attempt, holes in zip(part.cut.attempts, part.holes, strict=True):
                _publish_log(_bundles(attempt), part.cut, holes)
        for part in parts:
            wanted = [one for one in part.checkpoints if one.best or part is parts[-1]]
            if wanted and self._logs_are_there(part.cut):
                self._check()
                for one in wanted:
                    self._publish_checkpoint(one)
            for one in part.checkpoints:
                shutil.rmtree(one.files)

    def _logs_are_there(self, cut: "Cut") -> bool:
        """Wait for the other ranks' logs; False where the run ends before they come."""
        wanted = {f"{FED}rank-{rank}-{cut.step:09d}" for rank in range(self._ranks)}
        while self._ranks > 1 and any(wanted - set(_bundles(attempt).names(FED)) for attempt in cut.attempts):
            if self._abandoned.wait(POLL_SECONDS):
                return False
        return True

    def _publish_checkpoint(self, one: _Checkpoint) -> None:
        bundles, name = _bundles(one.attempt), checkpoint_name(one.step)
        if CHECKPOINTS + name not in bundles.names(CHECKPOINTS):  # an arm may go back to the step that all arms have
            bundles.publish(CHECKPOINTS + name, _files(one.files, f"{CHECKPOINT_FOLDER}/{name}"))
        best = one.attempt / BEST_FOLDER / name
        if one.best and best.exists():
            bundles.publish(BEST + name, _files(best, f"{BEST_FOLDER}/{name}"))
        own = bundles.names(CHECKPOINTS)
        bundles.retire([*own[: -self._keep], *bundles.names(BEST)[:-KEPT]])
        for attempt in Attempt(one.attempt).earlier if len(own) >= self._keep else ():
            _bundles(attempt).retire(_bundles(attempt).names(CHECKPOINTS))


def _bundles(attempt: Path) -> Bundles:
    found = twin_of(attempt)
    assert found is not None
    return found


def _publish_log(bundles: Bundles, cut: "Cut", holes: Path | None) -> None:
    from nml_ray.pretrain.feeding import part_path

    part = part_path(bundles.directory, cut.rank, cut.step)
    files = {f"{FED}{part.name}": part} if cut.asides else {}
    if holes:
        files[f"holes-{cut.rank}.jsonl"] = holes
    bundles.publish(f"{FED}{part.stem}", files)
    if holes:
        holes.unlink()


def _copied_holes(attempt: Path, cut: "Cut") -> Path | None:
    """A copy of the rank's list of holes, which the loop goes on writing."""
    holes = attempt / f"holes-{cut.rank}.jsonl"
    if not holes.exists():
        return None
    return Path(shutil.copyfile(holes, attempt / f".{holes.name}-{cut.step}"))


def _held(snapshot: "Snapshot") -> _Checkpoint:
    files = snapshot.directory.with_name(f"upload-{snapshot.step:09d}")
    shutil.rmtree(files, ignore_errors=True)
    shutil.copytree(snapshot.directory, files, copy_function=_link)
    return _Checkpoint(snapshot.attempt, snapshot.step, files, snapshot.best)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _files(directory: Path, below: str) -> dict[str, Path]:
    return {f"{below}/{file.name}": file for file in directory.iterdir()}
