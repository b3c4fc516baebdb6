"""What a study refers to: `stages.json` in its directory, there from the start of a run on, whatever becomes of it.

    {"pretrain/symmetric-0/seed-0": {
        "kind": "pretrain", "digest": "0f3c...",                 the artifact STORAGE/<kind>/<digest>, finished or not
        "state": "made",
        "path": "../../pretrain/0f3c.../attempt-0001"}, ...}     of what there is, from the study's directory

State: `given` (data of the user's, in the study's directory), `cached` (was there), `to do`, `made` (by this run, or
beside it by another), `failed`, `left out` (its input failed). What is `to do` may be at work: its artifact's lease
tells by whom, its attempts' progress.json how far; after a kill it stays `to do`.

While a sweep goes on these are the stages of all trials so far (`NAME#2` where a later round has another stage of that
name), once it has ended those of the best; trials.parquet has the artifacts of every trial. A sweep that begins again
keeps those of the run before it: until it has come to them they are `earlier`.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nml_ray.config.errors import UserError
from nml_ray.storage.atomic import read_json, write_json
from nml_ray.storage.mirror import mirror_of
from nml_ray.storage.twin import read_json as read_json_there
from nml_ray.storage.twin import tell
from nml_ray.study.plan import Planned

if TYPE_CHECKING:
    from nml_ray.study.runner import Outcome
    from nml_ray.study.version import Version

STAGES, EARLIER = "stages.json", "earlier"
_PATH = re.compile(r"\.\./\.\./[a-z_]+/[0-9a-z]+/attempt-[0-9a-f-]+|(history/[0-9a-f]+/)?given(/(?!\.\.?(/|$))[^/]+)+")
_REST = 20  # of the time, one part may go into writing the file


@dataclass(frozen=True)
class Entry:
    """One stage of a study. `path` is "" where there is no artifact."""

    kind: str
    digest: str
    state: str
    path: str = ""


class Listing:
    """The file while a run keeps it up to date; it is told to an object store too."""

    def __init__(self, directory: Path, version: "Version | None" = None) -> None:
        self._directory, self._version = directory, version
        self._entries: dict[str, Entry] = {}
        self._names: dict[str, str] = {}  # of the stages of the current plan, in the file
        self._write_again = 0.0
        self._unwritten = False

    def begin(self, planned: Mapping[str, Planned], beside: bool = False) -> None:
        """Add the stages of a plan and write the file; `beside` others of the same names, not in their place."""
        if beside and not self._entries:
            self._entries = _earlier(self._directory)
        self._names = {name: self._name(name, one.digest) if beside else name for name, one in planned.items()}
        for name, one in planned.items():
            there = self._entries.get(self._names[name])
            if there is None or there.digest != one.digest or not there.path or there.state == EARLIER:
                self._entries[self._names[name]] = Entry(one.stage.kind, one.digest, one.state)
        if self._write(durable=True):
            tell(self._directory / STAGES)

    def heard(self, outcome: "Outcome") -> None:
        """Take down what a part of the run has come to; the file follows at once while it is small."""
        for name, artifact in outcome.artifacts.items():
            entry = self._entries[self._names[name]]
            state = "made" if entry.state == "to do" else entry.state
            path = os.path.relpath(artifact.place, self._directory)
            self._entries[self._names[name]] = replace(entry, state=state, path=path)
        for state, names in (("failed", outcome.failures), ("left out", outcome.left_out)):
            for name in names:
                self._entries[self._names[name]] = replace(self._entries[self._names[name]], state=state)
        self._unwritten = True
        if time.monotonic() >= self._write_again and self._write():
            tell(self._directory / STAGES, patiently=False)

    def end(self) -> None:
        """Write what is not written yet."""
        if (self._unwritten or (self._version and self._entries)) and self._write(keep=True):
            tell(self._directory / STAGES, patiently=False)

    def _name(self, name: str, digest: str) -> str:
        number, called = 1, name
        while called in self._entries and self._entries[called].digest != digest:
            number += 1
            called = f"{name}#{number}"
        return called

    def _write(self, durable: bool = False, keep: bool = False) -> bool:
        """Whether it is this job's to write the study's own list; what the job names is kept in any case."""
        begun = time.monotonic()
        found = {name: {k: v for k, v in vars(entry).items() if v} for name, entry in self._entries.items()}
        if self._version and (durable or keep):
            self._version.keep(found)
        with self._version.writing() if self._version else nullcontext(True) as mine:
            if mine:
                write_json(self._directory / STAGES, found, durable=durable)
        now = time.monotonic()
        self._write_again, self._unwritten = now + _REST * (now - begun), False
        return mine


def _earlier(directory: Path) -> dict[str, Entry]:
    """What the run before this one had listed, here or on another machine."""
    mirror, found = mirror_of(directory), dict[str, Entry]()
    with suppress(ValueError, TypeError, AttributeError, RecursionError):  # it cannot be read: then nobody knows
        there = read_json_there(mirror, directory / STAGES) if mirror else None
        found |= {name: _entry(one) for name, one in (there or {}).items()}
    with suppress(UserError):
        here = (read_stages(directory) or {}).items()
        found |= {name if found.get(name, one).digest == one.digest else f"{name}#here": one for name, one in here}
    return {name: replace(one, state=EARLIER) for name, one in found.items()}


@contextmanager
def listed(directory: Path, version: "Version | None" = None) -> Iterator[Listing]:
    """A listing that, however the block ends, has all that it heard."""
    listing = Listing(directory, version)
    try:
        yield listing
    finally:
        listing.end()


def read_stages(directory: Path, where: str = "") -> dict[str, Entry] | None:
    """The stages of a study by name, from its directory; None where no run has begun there.

    Args:
        directory: of the study.
        where: what to call the file; its path when left out.

    Raises:
        UserError: what is there is no list of stages.
    """
    path = directory / STAGES
    try:
        found = read_json(path)
        return None if found is None else {name: _entry(one) for name, one in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        why = " ".join(str(error).split())[:80]
        raise UserError(
            f"cannot be read ({why})",
            where=where or str(path),
            expected="what the study refers to; run the study again, or remove its directory if it is to go",
        ) from None


def _entry(one: Any) -> Entry:
    entry = Entry(**one)
    if not all(isinstance(text, str) for text in vars(entry).values()):
        raise ValueError("names that are no text")
    if entry.path and not _PATH.fullmatch(entry.path):
        raise ValueError(f"a path that leads elsewhere: {entry.path[:40]!r}")
    return entry


def paths_of(directory: Path) -> dict[str, Path]:
    """Where the artifacts of a study lie that there are, by stage."""
    stages = read_stages(directory) or {}
    return {name: directory / entry.path for name, entry in stages.items() if entry.path}
