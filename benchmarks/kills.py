"""SIGKILL of a run, or of one of its Train workers, at an instant that its files tell; measurements and tests share it.

An instant is something that is seen for the first time: a first step, a checkpoint being written, the end of an epoch,
an encoder being exported. Its window may be a few milliseconds, so the files are looked at all the time.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from nml_ray.pretrain.feeding import FOLDER as FED
from nml_ray.pretrain.resume import FOLDER, committed, step_of
from nml_ray.storage.artifact import RECORD, read_progress

Kind = Literal["start", "commit", "epoch", "export", "step"]
Event = tuple[Kind, Path, int]
KINDS: tuple[Kind, ...] = ("start", "commit", "step", "epoch", "export")  # in the order of a run
POLL = 0.001
TRAIN_WORKER = re.compile(r"ray::RayTrainWorker\b")


def start(command: Sequence[str], storage: Path) -> "subprocess.Popen[bytes]":
    """Start `nml-ray run ...` with its artifacts in `storage`, and its output in storage.log beside."""
    with open(storage.with_suffix(".log"), "ab") as log:
        return subprocess.Popen([*command, "--storage", str(storage)], stdout=log, stderr=log)


def finish(process: "subprocess.Popen[bytes]", storage: Path) -> None:
    """Wait for a run's end, which must be a good one."""
    if process.wait() != 0:
        raise RuntimeError(f"run ended with code {process.returncode}:\n{storage.with_suffix('.log').read_text()}")


def wait_for(process: "subprocess.Popen[bytes]", due: Callable[[], bool]) -> bool:
    """Wait until something is due; False where the process ended before."""
    while process.poll() is None:
        if due():
            return True
        time.sleep(POLL)
    return False


def kill(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """Kill a run's own process; returns what it leaves behind."""
    left = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    return left


def train_workers(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """The living Ray Train workers of a run."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE and TRAIN_WORKER.match(" ".join(child.cmdline())):
                    found.append(child)
    return found


def is_rank_zero(worker: psutil.Process) -> bool:
    """Whether a worker in training is the one that writes telemetry."""
    for path in Path(f"/proc/{worker.pid}/fd").iterdir():
        with suppress(OSError):
            if os.readlink(path).endswith("telemetry.jsonl"):
                return True
    return False


def attempts(storage: Path) -> list[Path]:
    """The attempts at pre-training that are not finished, in order."""
    found = sorted((storage / "pretrain").glob("*/attempt-*"))
    return [attempt for attempt in found if not (attempt.parent / RECORD).exists()]


def events(storage: Path, kind: Kind, stale: frozenset[Path] = frozenset()) -> Iterator[Event]:
    """What is to be seen of one kind in unfinished attempts but stale ones, each with a number that tells it apart."""
    for attempt in attempts(storage):
        if attempt not in stale:
            for number in _numbers(attempt, kind):
                yield kind, attempt, number


def _numbers(attempt: Path, kind: Kind) -> Iterator[int]:
    with suppress(OSError):
        if kind in ("start", "step"):
            said = read_progress(attempt)
            if said and said.done and (kind == "step" or not committed(attempt)):
                yield int(said.done)
        elif kind == "commit":
            yield from (path.stat().st_mtime_ns for path in (attempt / FOLDER).glob("aside-*"))
        elif kind == "epoch":
            yield from range((attempt / "telemetry.jsonl").read_text().count('"epoch_ended"'))
        else:
            yield (attempt / "encoder.safetensors").stat().st_mtime_ns


@dataclass(frozen=True)
class Kill:
    """A kill to come: `delay` seconds after the first event of its kind.

    Attributes:
        skip: so many events pass before it.
        share: of the images, for the kind `step`: that many must have been fed.
        victim: the run's own process, or one of its Train workers.
    """

    kind: Kind
    delay: float
    share: float = 0.0
    skip: int = 0
    victim: Literal["driver", "worker"] = "driver"


@dataclass
class Disturbed:
    """A run that is killed again and again, started anew where its own process died, and then left to its end.

    Attributes:
        batch: images of a step.
        images: of the whole run.
        fell: of each kill, where it really fell (see `where`); "" where the run had ended before.
        left: processes that a killed run left behind.
    """

    command: Sequence[str]
    storage: Path
    batch: int
    images: int
    fell: list[str] = field(default_factory=list)
    left: list[psutil.Process] = field(default_factory=list)

    def run(self, kills: Sequence[Kill], choose: Callable[[int], int]) -> None:
        """Kill and finish; `choose(n)` draws one of n workers.

        Raises:
            RuntimeError: the run ended badly.
        """
        stale: frozenset[Path] = frozenset()
        process = start(self.command, self.storage)
        for one in kills:
            if not wait_for(process, self._watch(one, stale)):
                self.fell.append("")
                continue
            time.sleep(one.delay)
            if one.victim == "driver":
                self.left += kill(process)
                self.fell.append(where(self.storage, self.batch))
                stale = frozenset(attempts(self.storage))
                process = start(self.command, self.storage)
            else:
                self.fell.append(self._kill_worker(process, choose))
        finish(process, self.storage)

    def _watch(self, one: Kill, stale: frozenset[Path]) -> Callable[[], bool]:
        """Whether a kill is due, asked again and again from now on."""
        before, seen = frozenset(events(self.storage, one.kind)), set[Event]()

        def due() -> bool:
            fresh = [event for event in events(self.storage, one.kind, stale) if event not in before]
            seen.update(event for event in fresh if one.kind != "step" or event[2] >= one.share * self.images)
            return len(seen) > one.skip

        return due

    def _kill_worker(self, process: "subprocess.Popen[bytes]", choose: Callable[[int], int]) -> str:
        """Kill a worker, and wait for its company to be gone, so that what is seen afterwards is the next one's."""
        workers = sorted(train_workers(process), key=lambda worker: worker.pid)
        if not workers:
            return ""
        victim = workers[choose(len(workers))]
        rank = "rank 0" if is_rank_zero(victim) else "another rank"
        os.kill(victim.pid, signal.SIGKILL)
        fell = where(self.storage, self.batch)
        psutil.wait_procs(workers, timeout=120)
        return f"{rank}, {fell}"


def where(storage: Path, batch: int) -> str:
    """Where in a run of that batch size a kill fell, from what lies there afterwards."""
    newest = list({attempt.parent: attempt for attempt in attempts(storage)}.values())
    if not newest:
        return "after the end"
    if any((attempt / "encoder.safetensors").exists() for attempt in newest):
        return "in export"
    if any(map(_in_commit, newest)):
        return "in a commit"
    if not any(committed(attempt) for attempt in attempts(storage)):
        return "before the first checkpoint"
    ended = any(_epoch_ended(attempt, batch) for attempt in newest)
    return "just after an epoch" if ended else "between"


def _in_commit(attempt: Path) -> bool:
    """A checkpoint is being written, or a log is there whose checkpoint is not."""
    logged = max((int(path.stem.rpartition("-")[2]) for path in (attempt / FED).glob("rank-*.arrow")), default=0)
    saved = max(map(step_of, committed(attempt)), default=0)
    return logged > saved or any((attempt / FOLDER).glob("aside-*"))


def _epoch_ended(attempt: Path, batch: int) -> bool:
    """No progress is told beyond the last epoch's end; it is told five times a second at most."""
    said, file = read_progress(attempt), attempt / "telemetry.jsonl"
    ends = (
        [json.loads(line) for line in file.read_text().splitlines() if "epoch_ended" in line] if file.exists() else []
    )
    return said is not None and bool(ends) and said.done <= batch * (ends[-1]["step"] + 1)
