"""Removing what no job refers to, safe against runs that start meanwhile.

A run names what it needs in its study's stages.json (a heads stage: in its attempt), then looks what there is. Here an
artifact is hidden, then it is looked up what is named: so one of the two notices the other. What has come to be named
is taken back; the run waits for its lease, or makes it anew.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from nml_ray.config.errors import UserError
from nml_ray.storage import twin
from nml_ray.storage.artifact import Store
from nml_ray.storage.lease import Lease
from nml_ray.storage.record import RECORD
from nml_ray.storage.remote_lease import RemoteLease
from nml_ray.storage.removal import Removal, delete_leftovers
from nml_ray.study.garbage import Found, Garbage, Key, garbage
from nml_ray.study.garbage_scan import Directory, named, scan

BATCH = 64  # artifacts that are hidden, with their leases held, at once
AT_WORK = "somebody is at work on it"


@dataclass
class Removed:
    """What was removed: bytes that it freed, and what stayed after all, with the reason."""

    size: int = 0
    count: int = 0
    stayed: dict[str, str] = field(default_factory=dict)


def look(store: Store, days: float, earlier: bool = False) -> Garbage:
    """What of a storage may be removed, having been left alone for so many days.

    Args:
        store: which.
        days: how many.
        earlier: also what only earlier runs of a study refer to.

    Raises:
        UserError: it cannot be reached, or a study cannot be read.
    """
    found = scan(store)
    now = time.time()
    without = garbage(found, named(store, earlier=False), now, days)
    if earlier:
        return without
    going = garbage(found, named(store), now, days)
    kept = {one.key for one in without.artifacts} - {one.key for one in going.artifacts}
    return replace(going, earlier=tuple(one for one in without.artifacts if one.key in kept))


def remove(
    store: Store, going: Garbage, days: float, hidden: Callable[[], None] = lambda: None, earlier: bool = False
) -> Removed:
    """Remove garbage that was found.

    Args:
        store: where it lies.
        going: what `look` found.
        days: as there.
        hidden: called each time that artifacts have been hidden.
        earlier: as there.

    Raises:
        UserError: the storage cannot be reached, or a study cannot be read; what is hidden then is taken back.
    """
    done, work = Removed(), _Work(store, days, hidden, earlier)
    for first in range(0, len(going.artifacts), BATCH):
        work.remove(going.artifacts[first : first + BATCH], done)
    for one in going.leftovers:
        _remove_leftovers(store, one, done)
    if store.mirror:
        twin.tell_no_more(store.mirror, time.time())
    return done


def remove_directories(directories: Sequence[Directory], done: Removed) -> None:
    """Remove directories of Ray's, each losing its name first."""
    for one in directories:
        gone = one.path.with_name(f"gone-{one.path.name}")
        one.path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        done.size, done.count = done.size + one.size, done.count + 1


class _Work:
    """Removes artifacts, some at once."""

    def __init__(self, store: Store, days: float, hidden: Callable[[], None], earlier: bool) -> None:
        self.store, self.days, self.hidden, self.earlier = store, days, hidden, earlier
        self.known: list[Found] = []  # by the last look

    def remove(self, some: Sequence[Found], done: Removed) -> None:
        leases = dict[Key, Lease | RemoteLease]()
        removals = {one.key: Removal(self.store, *one.key) for one in some}
        going: list[Found] = []
        try:
            for one in some:
                if lease := self.store.lease(*one.key):
                    leases[one.key] = lease
                else:
                    done.stayed[_name(one)] = AT_WORK
            going = self.hide([one for one in some if one.key in leases], removals, done)
            for one in going:
                removals[one.key].delete(one.files)
                done.size, done.count = done.size + one.size, done.count + 1
        finally:
            for lease in leases.values():
                lease.release()
            for one in going:
                removals[one.key].close()

    def hide(self, some: Sequence[Found], removals: Mapping[Key, Removal], done: Removed) -> list[Found]:
        """Hide artifacts, and take back those that turn out to be named or changed; the others."""
        if self.store.mirror:
            told = [(one.kind, one.digest, _winner(self.store, one)) for one in some if one.finished]
            twin.tell_removed(self.store.mirror, told)
        try:
            for one in some:
                removals[one.key].hide()
            self.hidden()
            still = self.still(some)
        except BaseException:
            for one in some:
                with suppress(UserError):
                    removals[one.key].take_back()
            raise
        for one in some:
            if one.key not in still:
                removals[one.key].take_back()
                done.stayed[_name(one)] = "a study refers to it by now"
        return [one for one in some if one.key in still]

    def still(self, some: Sequence[Found]) -> set[Key]:
        """What is garbage, now that these are hidden."""
        self.known = scan(self.store, self.known)
        now = {one.key: one for one in self.known}
        for one in some:
            came = set(now[one.key].files) - set(one.files) if one.key in now else set()
            if not any(name.startswith("attempt-") or name == RECORD for name in came):
                now[one.key] = replace(one, held=False)  # our own lease and hiding count for nothing
        wanted = named(self.store, not self.earlier)
        return {one.key for one in garbage(now.values(), wanted, time.time(), self.days).artifacts}


def _remove_leftovers(store: Store, one: Found, done: Removed) -> None:
    lease = store.lease(*one.key)
    if lease is None:
        done.stayed[_name(one)] = AT_WORK
        return
    try:
        if store.artifact(*one.key):
            delete_leftovers(store, one.kind, one.digest, one.leftovers)
            done.size, done.count = done.size + sum(one.files[name].size for name in one.leftovers), done.count + 1
    finally:
        lease.release()


def _winner(store: Store, one: Found) -> str:
    found = store.artifact(*one.key)
    return str(found.record["attempt"]) if found else ""


def _name(one: Found) -> str:
    return f"{one.kind}/{one.digest}"
