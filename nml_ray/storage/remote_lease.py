"""Leases on an object store. They are advisory: two that look at once may both take one, and do the work twice."""

import json
import threading
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from nml_ray.config.errors import UserError
from nml_ray.storage import lease, remote
from nml_ray.storage.atomic import json_bytes
from nml_ray.storage.lease import HEARTBEAT, LEASE, PULSE, STALE, Holder, Lease
from nml_ray.storage.location import Location
from nml_ray.storage.patience import QUICK
from nml_ray.storage.pulse import Pulse


class RemoteLease:
    """A lease that this process holds, on this machine and on the object store; beats until released."""

    def __init__(self, mine: Lease, directory: Location, said: Holder) -> None:
        self._mine, self._directory, self._said = mine, directory, said
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease-{directory.name}", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lease back; nothing happens to one that another has taken over. What cannot be removed expires."""
        self._released.set()
        self._thread.join()
        self._mine.release()
        with suppress(UserError):
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


def take(directory: Path, location: Location, pulse: Pulse = PULSE) -> RemoteLease | None:
    """Take the lease on an artifact, also from a holder that is dead; None while another may be alive.

    See `lease.take`.

    Args:
        directory: of the artifact, in the working root: processes of this machine take that lease first.
        location: of the artifact, on the object store.
        pulse: of holders.

    Raises:
        UserError: the object store does not answer.
    """
    mine = lease.take(directory, pulse)
    if mine is None:
        return None
    try:
        found = holder(location)
        if not found or found.silent(str(location), pulse) or _stale(location):
            pulse.forget(str(location))
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
    with suppress(remote.NotThere, ValueError, RecursionError):  # not whole: not one of ours
        return Holder.from_data(json.loads(remote.read(directory / LEASE, QUICK)))
    return None


def held(directory: Location) -> bool:
    """Whether somebody may hold the lease on an artifact, as far as one look tells."""
    found = holder(directory)
    return found is not None and not found.dead and not _stale(directory)


def _stale(directory: Location) -> bool:
    changed = remote.changed(directory / LEASE, QUICK)
    return changed is not None and time.time() - changed >= STALE


def _write(directory: Location, said: Holder) -> None:
    remote.write(json_bytes(asdict(said)), directory / LEASE, QUICK)
