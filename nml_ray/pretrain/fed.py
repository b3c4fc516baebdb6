"""The feeding log read back: the records that the final weights descend from.

A run may have had several attempts, each resumed from a checkpoint of an earlier one. The lineage in the record says
from which step on each counts; what an attempt fed after the step at which the next one took over is replayed.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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

    def parts(self, first: int, stop: int) -> Iterator[FedRows]:
        """The records of steps first .. stop - 1 that count, of all ranks: file after file, some at a time."""
        for file in self.files:
            spans = [
                (max(first, segment.first), min(stop, segment.stop))
                for segment in self.segments
                if segment.attempt == file.attempt
            ]
            if all(file.last < begin or file.first >= end for begin, end in spans):
                continue
            for read in _columns(file.path, tuple(_TYPES)):
                kept = _inside(read["step"], spans)
                if kept.any():
                    yield FedRows(**(read if kept.all() else {name: values[kept] for name, values in read.items()}))

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
            names = ("step",) if aside or not spans else tuple(_TYPES)
            try:
                found = _Steps.of((columns["step"] for columns in _columns(path, names)), spans, self.steps)
            except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
                if spans and not aside:
                    self.problems.append((path, f"cannot be read ({' '.join(str(error).split())[:200]})"))
                continue
            if aside or not spans:
                self.replayed += found.records
            elif found.records:
                self._note(path, attempt.name, int(name[1]), found)

    def _note(self, path: Path, attempt: str, rank: int, found: "_Steps") -> None:
        if found.strange:
            outside = f"{found.strange} records outside the run's {self.steps} steps"
            self.problems.append((path, f"has steps {found.first} to {found.last}, {outside}"))
        self.replayed += found.records - found.inside - found.strange
        self.files.append(LogFile(path, attempt, rank, found.first, found.last))

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


@dataclass
class _Steps:
    """What the steps of a file are: how many records in all, inside the spans that count, and outside the run."""

    records: int = 0
    first: int = 0
    last: int = 0
    inside: int = 0
    strange: int = 0

    @classmethod
    def of(cls, parts: Iterable[NDArray[np.int64]], spans: Sequence[tuple[int, int]], steps: int) -> "_Steps":
        found = cls()
        for step in parts:
            if len(step):
                first, last = int(step.min()), int(step.max())
                found.first = min(found.first, first) if found.records else first
                found.last = max(found.last, last) if found.records else last
                found.strange += int(np.count_nonzero((step < 0) | (step >= steps)))
                found.inside += int(np.count_nonzero(_inside(step, spans)))
                found.records += len(step)
        return found


def _columns(path: Path, names: Sequence[str]) -> Iterator[dict[str, NDArray[Any]]]:
    """Columns of a file of the log, one record batch after another."""
    with pa.OSFile(str(path)) as source:
        places = [pa.ipc.open_file(source).schema.get_field_index(name) for name in names]
        if -1 in places:
            raise KeyError(f"no column {names[places.index(-1)]}")
        reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=places))
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            read = {name: batch[name].to_numpy() for name in names}
            for name, values in read.items():
                if values.dtype != _TYPES[name]:
                    raise TypeError(f"column {name} is {values.dtype}, not {np.dtype(_TYPES[name])}")
            yield read


def _inside(step: NDArray[np.int64], spans: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    kept = np.zeros(len(step), bool)
    for first, stop in spans:
        kept |= (step >= first) & (step < stop)
    return kept
