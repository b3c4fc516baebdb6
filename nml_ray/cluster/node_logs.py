"""Copies the logs of Ray's processes on one machine to a submission's record while they grow.

    python -m nml_ray.cluster.node_logs STORAGE ID DIRECTORY

Runs beside Ray until SIGTERM, and copies once more then. DIRECTORY is Ray's, such as /tmp/ray/session_latest/logs; it
may come later, and another one may take its place. Trouble with the storage is said once; the logs wait meanwhile.
"""

import argparse
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nml_ray.cluster.parts import Parts
from nml_ray.cluster.record import NODES, Record, record_of
from nml_ray.config.errors import UserError
from nml_ray.storage.patience import Patience

EVERY = 30.0  # seconds between two looks
MOST = 32 << 20  # bytes of a file that are copied; what comes after stays on its machine
_PIECE = 1 << 20
_SUFFIXES = (".log", ".out", ".err")
_ONCE, _AT_LAST = Patience(total=0), Patience(total=30)


@dataclass
class _Copy:
    """A file and how much of it was taken."""

    inode: int
    parts: Parts
    taken: int = 0


class NodeLogs:
    """The copies of one machine's logs, in nodes/<host>/ray/<file>/."""

    def __init__(self, record: Record, directory: Path, host: str = "") -> None:
        self.record = record
        self.directory = directory
        self.folder = f"{NODES}/{host or socket.gethostname()}/ray"
        self._copies: dict[str, _Copy] = {}

    def copy(self, patience: Patience | None = None) -> None:
        """Copy what has come since the last call.

        Raises:
            UserError: the storage cannot be written; the next call goes on.
        """
        for path in sorted(self.directory.rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file() and not path.is_symlink():
                self._copy(path, path.relative_to(self.directory).as_posix())
        for one in self._copies.values():
            one.parts.flush(patience)

    def _copy(self, path: Path, name: str) -> None:
        with open(path, "rb") as file:
            inode = path.stat().st_ino
            known = self._copies.get(name)
            if known is None or known.inode != inode:  # Ray has been started again
                known = self._copies[name] = _Copy(inode, Parts(self.record, f"{self.folder}/{name}", ".log"))
            file.seek(known.taken)
            while known.taken < MOST and (data := file.read(min(_PIECE, MOST - known.taken))):
                known.parts.add(data)
                known.taken += len(data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Copy until SIGTERM; see the module."""
    parser = argparse.ArgumentParser("python -m nml_ray.cluster.node_logs", description=(__doc__ or "").splitlines()[0])
    for name in ("storage", "id", "directory"):
        parser.add_argument(name)
    given = parser.parse_args(arguments)
    try:
        logs = NodeLogs(record_of(given.storage, given.id), Path(given.directory))
    except UserError as error:
        print(f"nml-ray: {error}", file=sys.stderr)
        return 2
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    troubled = False
    while True:
        last = over.wait(EVERY)
        try:
            logs.copy(_AT_LAST if last else _ONCE)
            troubled = False
        except (UserError, OSError) as error:
            if not troubled:
                print(f"nml-ray: logs of this machine cannot be copied ({error})", file=sys.stderr, flush=True)
            troubled = True
        if last:
            return 0


if __name__ == "__main__":
    sys.exit(main())
