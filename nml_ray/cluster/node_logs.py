"""Logs of Ray's processes, and what each machine uses, copied from every node to a submission's record while it runs.

A small actor on each node copies; the driver looks for new nodes now and then, and has all of them copy once more at
its end. Ray keeps these logs on the node alone, where they go with it.
"""

import json
import os
import re
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nml_ray.cluster.parts import Parts
from nml_ray.cluster.record import NODES, Record, record_of
from nml_ray.cluster.usage import Meter
from nml_ray.config.errors import UserError
from nml_ray.storage.patience import Patience

PACE, REMOTE_PACE = 10.0, 30.0  # seconds between two copies
LOOK_FIRST, LOOK = 1.0, 30.0  # seconds between two looks for Ray, and then for new nodes
ASKED = 5.0  # seconds for the nodes to tell how they get on
MOST_BEGUN = 3  # times that the copying on one node is begun
AT_LAST = 20.0  # seconds for the copies at the end
MOST = 16 << 20  # bytes of one log; what grows beyond is left on the node
_PIECE = 1 << 20
_NOW = Patience(total=0)


class Copier:
    """Copies the logs of one node, each from where it stopped.

    Args:
        record: of the submission.
        node: its name in the record.
        directory: of the session's logs.
        job: Ray's name of the job (hex): workers of others are left alone, but for those that Ray started beforehand.
    """

    def __init__(self, record: Record, node: str, directory: Path, job: str) -> None:
        self._record, self._folder, self._directory = record, f"{NODES}/{node}", directory
        # Workers print into files of their own; Ray Train keeps a folder; the rest tells why a node failed.
        own = rf"worker-[0-9a-f]+-({job}|f{{8}})-[0-9]+\.(out|err)|runtime_env_setup-{job}\.log|train/ray-train-.*\.log"
        self._wanted = re.compile(rf"({own}|raylet\.(out|err)|gcs_server\.(out|err))$")
        self._taken: dict[str, int] = {}
        self._parts: dict[str, Parts] = {}
        self._usage = Parts(record, f"{self._folder}/machine", ".jsonl")
        self._meter = Meter(os.getpid())

    def copy(self) -> None:
        """Copy what is new.

        Raises:
            UserError: the storage cannot be written; nothing is lost, the next call goes on.
        """
        reading = self._meter.read()
        del reading["job"]
        self._usage.add(json.dumps(reading, separators=(",", ":")).encode() + b"\n")
        for name in self._names():
            parts = self._parts.setdefault(name, Parts(self._record, f"{self._folder}/ray/{name}", ".log"))
            for piece in self._pieces(name):
                parts.add(piece)
                parts.flush(_NOW)
            parts.flush(_NOW)
        self._usage.flush(_NOW)

    def _names(self) -> list[str]:
        files = (path for path in self._directory.rglob("*") if path.is_file() and not path.is_symlink())
        names = (path.relative_to(self._directory).as_posix() for path in files)
        return sorted(name for name in names if self._wanted.match(name))

    def _pieces(self, name: str) -> Iterator[bytes]:
        with open(self._directory / name, "rb") as file:
            file.seek(self._taken.get(name, 0))
            while self._taken.get(name, 0) < MOST and (piece := file.read(_PIECE)):
                self._taken[name] = self._taken.get(name, 0) + len(piece)
                yield piece


class Copying:
    """Has a copier copy now and then, in a thread of its own, whatever happens to the storage meanwhile."""

    def __init__(self, copier: Copier, pace: float) -> None:
        self._copier, self._pace = copier, pace
        self._trouble = ""
        self._lock, self._over = threading.Lock(), threading.Event()
        threading.Thread(target=self._go_on, name="logs", daemon=True).start()

    def trouble(self) -> str:
        """Why the last copy failed; "" where it did not."""
        return self._trouble

    def finish(self) -> str:
        """Copy for the last time; why that failed, "" where it did not."""
        self._over.set()
        self._copy()
        return self._trouble

    def _go_on(self) -> None:
        while not self._over.wait(self._pace):
            self._copy()

    def _copy(self) -> None:
        with self._lock:
            try:
                self._copier.copy()
                self._trouble = ""
            except (UserError, OSError) as error:
                self._trouble = str(error)
            except Exception as error:  # a mistake of ours: the driver tells of it, and the thread goes on
                self._trouble = f"{type(error).__name__}: {error}"


class _NodeLogs:
    """The actor of a node."""

    def __init__(self, storage: str, id: str, job: str) -> None:
        import ray

        node = ray._private.worker._global_node
        assert node is not None
        name = f"{socket.gethostname()}-{ray.util.get_node_ip_address()}"
        record = record_of(storage, id)
        copier = Copier(record, name, Path(node.get_logs_dir_path()), job)
        self._copying = Copying(copier, REMOTE_PACE if record.location.remote else PACE)

    def trouble(self) -> str:
        """See `Copying`."""
        return self._copying.trouble()

    def finish(self) -> str:
        """See `Copying`."""
        return self._copying.finish()


class NodeLogs:
    """The copying of all nodes' logs, from the driver's side. Trouble with it never stops the job.

    Args:
        storage: of the submission's record.
        id: of the submission.
        say: called with a line for the user, in a thread: once for trouble, until that has passed.
    """

    def __init__(self, storage: str, id: str, say: Callable[[str], None]) -> None:
        self._storage, self._id, self._say = storage, id, say
        self._actors: dict[str, Any] = {}
        self._begun = Counter[str]()
        self._told = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="node-logs", daemon=True)

    def begin(self) -> None:
        """Copy from the moment at which Ray runs in this process, which may be never."""
        self._thread.start()

    def finish(self) -> None:
        """Have every node copy once more, while Ray still runs."""
        self._over.set()
        self._thread.join(AT_LAST)
        if not self._actors or not _runs():
            return
        try:
            self._tell(self._ask("finish", AT_LAST))
            import ray

            for actor in self._actors.values():
                ray.kill(actor)
        except Exception as error:
            if _runs():  # else the run has just ended Ray
                self._tell(_words(error))

    def _follow(self) -> None:
        failed = False
        while not self._over.is_set():
            if runs := _runs():
                try:
                    self._look()
                    failed = False
                except Exception as error:  # a cluster that is coming up, or going, fails once
                    if failed and _runs():
                        self._tell(_words(error))
                    failed = True
            self._over.wait(LOOK if runs else LOOK_FIRST)

    def _look(self) -> None:
        import ray

        self._cover([node["NodeID"] for node in ray.nodes() if node["Alive"]])
        self._tell(self._ask("trouble", ASKED))

    def _ask(self, method: str, patience: float) -> str:
        """What all actors answer that do so in time: the first one's trouble, "" where there is none."""
        import ray

        asked = {getattr(actor, method).remote(): node for node, actor in self._actors.items()}
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=patience) if asked else ([], [])
        troubles = []
        for answer in ready:
            try:
                troubles.append(ray.get(answer))
            except ray.exceptions.RayError as error:
                node = asked[answer]
                del self._actors[node]  # begun anew at the next look, if its node is still there
                if self._begun[node] > 1:  # else the node itself may be gone, and the cluster not know it yet
                    troubles.append(_words(error))
        return next(filter(None, troubles), "")

    def _tell(self, trouble: str) -> None:
        if trouble and not self._told:
            self._say(f"logs of the cluster's nodes cannot be copied to the job's record; the job goes on ({trouble})")
        self._told = bool(trouble)

    def _cover(self, nodes: Sequence[str]) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        job = ray.get_runtime_context().get_job_id()
        for node in nodes:
            if node not in self._actors and self._begun[node] < MOST_BEGUN:
                strategy = NodeAffinitySchedulingStrategy(node, soft=False)
                remote = ray.remote(num_cpus=0, scheduling_strategy=strategy)(_NodeLogs)
                self._actors[node] = remote.remote(self._storage, self._id, job)
                self._begun[node] += 1


def _runs() -> bool:
    """Whether Ray runs in this process, without importing it."""
    ray = sys.modules.get("ray")
    return ray is not None and hasattr(ray, "is_initialized") and bool(ray.is_initialized())


def _words(error: Exception) -> str:
    """An error of Ray's as one line: its last, which names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:300]
