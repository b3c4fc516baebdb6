"""Leases on an object store. They are advisory: two that look at once may both take one, and do the work twice."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from nml_ray.config.errors import UserError
from nml_ray.storage import lease, remote
from nml_ray.storage.atomic import json_bytes
from nml_ray.storage.lease import HEARTBEAT, LEASE, Holder, Lease
from nml_ray.storage.location import Location
from nml_ray.storage.patience import QUICK


class RemoteLease:
    """A lease that this process holds, on this machine and on the object store; beats until released."""

    def __init__(self, mine: Lease, directory: Location, said: Holder) -> None:
        self._mine, self._directory, self._said = mine, directory, said
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease-{directory.name}", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lease back; nothing happens to one that another has taken over."""
        self._released.set()
        self._thread.join()
        self._mine.release()
        found = holder(self._directory)
        if found and found.owner == self._said.owner:
            remote.remove(self._directory / LEASE)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT):
            try:
                found = holder(self._directory)
                if found is None or found.owner != self._said.owner:
                    return
                _write(self._directory, replace(self._said, heartbeat=time.time()))
            except UserError:  # the work goes on: what it leaves is tried for longer
                continue


def take(directory: Path, location: Location, clock: Callable[[], float] = time.time) -> RemoteLease | None:
    """Take the lease on an artifact, also from a holder that is dead; None while another is alive.

    Args:
        directory: of the artifact, in the working root: processes of this machine take that lease first.
        location: of the artifact, on the object store.
        clock: Unix time.

    Raises:
        UserError: the object store does not answer.
    """
    mine = lease.take(directory, clock)
    if mine is None:
        return None
    try:
        found = holder(location)
        if not found or not found.alive(clock()):
            said = lease.holder(directory)
            assert said is not None
            _write(location, said)
            if (left := holder(location)) and left.owner == said.owner:
                return RemoteLease(mine, location, said)
    except BaseException:
        mine.release()
        raise
    mine.release()
    return None


def holder(directory: Location) -> Holder | None:
    """Who holds the lease on an artifact, dead or alive."""
    try:
        return Holder(**json.loads(remote.read(directory / LEASE, QUICK)))
    except remote.NotThere:
        return None
    except (ValueError, TypeError):
        return None  # not whole: not one of ours


def _write(directory: Location, said: Holder) -> None:
    remote.write(json_bytes(asdict(said)), directory / LEASE, QUICK)
