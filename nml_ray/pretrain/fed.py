"""The feeding log read back: the records that the final weights descend from.

A run may have had several attempts, each resumed from a checkpoint of an earlier one. The lineage in the record says
from which step on each counts; what an attempt fed after the step at which the next one took over is replayed.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import feather

from nml_ray.pretrain.feeding import FOLDER

_NAME = re.compile(r"rank-(\d+)-(\d{9,})\.arrow")
_HOLES = re.compile(r"holes-(\d+)\.jsonl")
_TYPES = {"step": np.int64, "place": np.int64, "key_hash": np.uint64, "label": np.int64, "weight": np.float32}


@dataclass(frozen=True)
class Segment:
    """Steps first .. stop - 1 of an attempt are those that count."""

    attempt: str
    first: int
    stop: int


@dataclass(frozen=True)
class LogFile:
    """One file of the log that can be read, and the steps in it."""

    path: Path
    attempt: str
    rank: int
    first: int
    last: int


@dataclass(frozen=True)
class FedRows:
    """Records of the log, [R] each: int64, int64, uint64, int64, float32."""

    step: NDArray[np.int64]
    place: NDArray[np.int64]
    key_hash: NDArray[np.uint64]
    label: NDArray[np.int64]
    weight: NDArray[np.float32]

    def __len__(self) -> int:
        """Records."""
        return len(self.step)


@dataclass(frozen=True)
class HoleLine:
    """What the log says of an undecodable image: its key, why, and the key whose image filled the place."""

    step: int
    place: int
    key: str
    reason: str
    filler: str | None


@dataclass(frozen=True)
class FedLog:
    """The log of one artifact.

    Attributes:
        directory: of the artifact: holds the attempts.
        segments: the lineage, by step.
        files: those of attempts in the lineage, by attempt, rank and step.
        holes: by (step, place); several where they differ.
        replayed: records that do not count.
        problems: files that are missing, strange or unreadable, and why.
    """

    directory: Path
    segments: tuple[Segment, ...]
    files: tuple[LogFile, ...]
    holes: Mapping[tuple[int, int], Sequence[HoleLine]]
    replayed: int
    problems: tuple[tuple[Path, str], ...]

    @classmethod
    def open(cls, directory: Path, lineage: Sequence[Mapping[str, Any]], steps: int) -> "FedLog":
        """Look through the log of a run of `steps` steps; of the records, only the steps are read."""
        segments = lineage_segments(lineage, steps)
        reading = _Reading(directory, segments, steps)
        reading.look()
        return cls(directory, segments, tuple(reading.files), reading.holes, reading.replayed, tuple(reading.problems))

    def rows(self, first: int, stop: int) -> FedRows:
        """The records of steps first .. stop - 1 that count, of all ranks."""
        parts: dict[str, list[NDArray[Any]]] = {name: [np.empty(0, kind)] for name, kind in _TYPES.items()}
        for file in self.files:
            spans = [
                (max(first, segment.first), min(stop, segment.stop))
                for segment in self.segments
                if segment.attempt == file.attempt
            ]
            if all(file.last < begin or file.first >= end for begin, end in spans):
                continue
            read = _columns(file.path, tuple(_TYPES))
            kept = _inside(read["step"], spans)
            for name, values in read.items():
                parts[name].append(values[kept])
        return FedRows(**{name: np.concatenate(values) for name, values in parts.items()})

    def ranks(self, attempt: str) -> int:
        """How many ranks the log of an attempt shows."""
        return 1 + max((file.rank for file in self.files if file.attempt == attempt), default=0)

    def file_of(self, attempt: str, rank: int, step: int) -> tuple[Path, bool]:
        """The file that holds or should hold a step's records, and whether there is such a file."""
        own = [file for file in self.files if (file.attempt, file.rank) == (attempt, rank)]
        for file in own:
            if file.first <= step <= file.last:
                return file.path, True
        stop = max(segment.stop for segment in self.segments if segment.attempt == attempt)
        end = min((file.first for file in own if file.first > step), default=stop)
        return self.directory / attempt / FOLDER / f"rank-{rank}-{end:09d}.arrow", False


def lineage_segments(lineage: Sequence[Mapping[str, Any]], steps: int) -> tuple[Segment, ...]:
    """Which steps of each attempt count: those from where it began up to where the next one took over."""
    starts = [int(entry["from_step"]) for entry in lineage]
    stops = [*starts, steps][1:]
    return tuple(
        Segment(str(entry["attempt"]), first, stop)
        for entry, first, stop in zip(lineage, starts, stops, strict=True)
        if first < stop
    )


@dataclass
class _Reading:
    directory: Path
    segments: tuple[Segment, ...]
    steps: int
    files: list[LogFile] = field(default_factory=list)
    holes: dict[tuple[int, int], list[HoleLine]] = field(default_factory=dict)
    replayed: int = 0
    problems: list[tuple[Path, str]] = field(default_factory=list)

    def look(self) -> None:
        for attempt in sorted(self.directory.glob("attempt-*")):
            spans = [(one.first, one.stop) for one in self.segments if one.attempt == attempt.name]
            self._look_at_records(attempt, spans)
            if spans:
                self._look_at_holes(attempt, spans)
        for segment in self.segments:
            folder = self.directory / segment.attempt / FOLDER
            if not folder.is_dir():
                self.problems.append(
                    (folder, f"is missing; steps {segment.first} to {segment.stop - 1} were fed there")
                )

    def _look_at_records(self, attempt: Path, spans: list[tuple[int, int]]) -> None:
        for path in sorted((attempt / FOLDER).glob("**/*.arrow")):
            name = _NAME.fullmatch(path.name)
            aside = path.parent.name != FOLDER
            if name is None:
                self.problems.append((path, "is no name of the log: rank-RANK-STEP.arrow is"))
                continue
            try:
                step = _columns(path, ("step",) if aside or not spans else tuple(_TYPES))["step"]
            except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
                if spans and not aside:
                    self.problems.append((path, f"cannot be read ({' '.join(str(error).split())[:200]})"))
                continue
            if aside or not spans:
                self.replayed += len(step)
            elif len(step):
                self._note(path, attempt.name, int(name[1]), step, spans)

    def _note(self, path: Path, attempt: str, rank: int, step: NDArray[np.int64], spans: list[tuple[int, int]]) -> None:
        first, last = int(step.min()), int(step.max())
        strange = int(np.count_nonzero((step < 0) | (step >= self.steps)))
        if strange:
            found = f"has steps {first} to {last}, {strange} records outside the run's {self.steps} steps"
            self.problems.append((path, found))
        self.replayed += len(step) - int(np.count_nonzero(_inside(step, spans))) - strange
        self.files.append(LogFile(path, attempt, rank, first, last))

    def _look_at_holes(self, attempt: Path, spans: list[tuple[int, int]]) -> None:
        for path in sorted(attempt.glob("holes-*.jsonl")):
            if not _HOLES.fullmatch(path.name):
                self.problems.append((path, "is no name of the log: holes-RANK.jsonl is"))
                continue
            for hole in _hole_lines(path):
                if any(first <= hole.step < stop for first, stop in spans):
                    known = self.holes.setdefault((hole.step, hole.place), [])
                    if hole not in known:  # fed again by the same attempt, after a restart of its workers
                        known.append(hole)


def _hole_lines(path: Path) -> Iterator[HoleLine]:
    """A line cut short by a crash tells nothing; where it would have counted, the audit finds its hole without it."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            facts = json.loads(line)
            yield HoleLine(facts["step"], facts["place"], facts["key"], str(facts["reason"] or ""), facts["filler"])
        except (ValueError, KeyError, TypeError):
            continue


def _columns(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    table = feather.read_table(path, columns=list(names), memory_map=False)
    read = {name: table[name].to_numpy() for name in names}
    for name, values in read.items():
        if values.dtype != _TYPES[name]:
            raise TypeError(f"column {name} is {values.dtype}, not {np.dtype(_TYPES[name])}")
    return read


def _inside(step: NDArray[np.int64], spans: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    kept = np.zeros(len(step), bool)
    for first, stop in spans:
        kept |= (step >= first) & (step < stop)
    return kept
