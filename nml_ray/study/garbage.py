"""What of a storage no job refers to. Pure: from what lies there and what the studies name, to what may go."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Key = tuple[str, str]
"""Kind and digest of an artifact."""

DAY = 24 * 3600.0
ORDER = ("report", "heads", "trial", "spectrum", "set", "extract", "encoder", "pretrain", "ledger", "shards")
"""The kinds of artifact, what is made of others first."""


@dataclass(frozen=True)
class File:
    """A file of an artifact: bytes that its removal frees, Unix time of its last change."""

    size: int
    changed: float


@dataclass(frozen=True)
class Found:
    """An artifact that lies on the storage, finished or not.

    Attributes:
        kind: of the artifact.
        digest: of the artifact.
        files: by name below its directory.
        finished: it has its record.
        held: its lease is alive.
        refers: the artifacts that it reads, or has chosen from.
        told: `refers` is all; False where neither a record nor an attempt says what it reads.
        points: of one that is a name for another (`set`), that one.
        leftovers: names of files that it does not need, being finished.
    """

    kind: str
    digest: str
    files: Mapping[str, File]
    finished: bool = True
    held: bool = False
    refers: frozenset[Key] = frozenset()
    told: bool = True
    points: Key | None = None
    leftovers: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        """Kind and digest."""
        return self.kind, self.digest

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files.values())

    @property
    def changed(self) -> float:
        """When it last gave a sign of life; 0 if it never did."""
        return max((file.changed for file in self.files.values()), default=0.0)

    def busy(self, now: float) -> bool:
        """Whether somebody may be at work on it."""
        return self.held or (not self.finished and now - self.changed < DAY)

    def settled(self, now: float, days: float) -> bool:
        """Whether nothing has happened to it for so many days, and nobody is at work on it."""
        return not self.busy(now) and now - self.changed >= days * DAY


@dataclass(frozen=True)
class Garbage:
    """What may go: artifacts in the order in which they are removed, and files of artifacts that stay.

    Attributes:
        artifacts: no job refers to them.
        leftovers: artifacts that stay, with files that they do not need.
        earlier: artifacts that stay as only earlier runs of a study refer to them.
        untold: heads that a study plans and nobody knows the trials of: no trial goes while there are such.
    """

    artifacts: tuple[Found, ...]
    leftovers: tuple[Found, ...]
    untold: tuple[Key, ...] = ()
    earlier: tuple[Found, ...] = ()


def garbage(found: Iterable[Found], named: Iterable[Key], now: float, days: float = 0) -> Garbage:
    """What may be removed.

    Whatever stays keeps all that it refers to: what a study names, what somebody is at work on, what has changed within
    the last `days`.

    Args:
        found: all artifacts of a storage.
        named: those that studies name, there or not.
        now: Unix time.
        days: how long an artifact must have been left alone.
    """
    there = {one.key: one for one in found}
    named = set(named)
    untold = sorted(key for key in named if key[0] == "heads" and not (key in there and there[key].told))
    roots = named | {key for key, one in there.items() if one.points is None and not one.settled(now, days)}
    roots |= {key for key in there if key[0] == "trial"} if untold else set()
    kept = reached(there, roots)
    kept |= {key for key, one in there.items() if one.points in kept or (one.points and one.busy(now))}
    going = [one for key, one in there.items() if key not in kept]
    going.sort(key=lambda one: (ORDER.index(one.kind), one.digest))
    partly = [there[key] for key in sorted(kept & there.keys()) if _has_leftovers(there[key], now, days)]
    return Garbage(tuple(going), tuple(partly), tuple(untold))


def reached(there: Mapping[Key, Found], roots: Iterable[Key]) -> set[Key]:
    """The roots and all that they refer to, directly or not."""
    reached, pending = set[Key](), list(roots)
    while pending:
        key = pending.pop()
        if key not in reached:
            reached.add(key)
            pending += there[key].refers if key in there else ()
    return reached


def _has_leftovers(one: Found, now: float, days: float) -> bool:
    return bool(one.leftovers) and one.finished and one.settled(now, days)


def leftover_names(names: Iterable[str], kind: str, winner: str, needed: Iterable[str] = ()) -> list[str]:
    """Files of a finished artifact that nobody reads any more.

    Attempts that lost, but for what tells the audit of pre-training what they fed; checkpoints that were left when the
    process was killed between the record and their removal; what a removal left that was killed.

    Args:
        names: of its files, below its directory.
        kind: of the artifact.
        winner: name of the attempt that its record names.
        needed: names that count, whatever they are: on an object store files lie under names of other attempts.
    """
    needed = set(needed)
    return [name for name in names if name not in needed and _left_over(name, kind, winner)]


def _left_over(name: str, kind: str, winner: str) -> bool:
    attempt, _, below = name.partition("/")
    if attempt.startswith(("gone-", ".gone-")):
        return True
    if not attempt.startswith("attempt-") or not below:
        return False
    if below.startswith(("checkpoints/", "bundles/checkpoints/", "held/")):
        return True
    if attempt == winner:
        return False
    if kind == "pretrain":
        return below.startswith(("best/", "bundles/best/")) or below.endswith(".safetensors")
    return True
