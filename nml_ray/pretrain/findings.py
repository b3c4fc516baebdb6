"""What an audit finds, as plain data."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NAMED = 20  # findings of one kind and epoch that are told one by one; all are counted

KINDS: Mapping[str, str] = {
    "missing": "a planned place that no record fills",
    "twice": "a sample fed more often in an epoch than it has copies",
    "order": "a sample fed at another place than planned",
    "key": "a sample fed that the epoch does not feed, or that the data does not have",
    "label": "a label fed that is not the ledger's",
    "hole": "an undecodable image without its reason, or not treated as one",
    "ledger": "a ledger that the noise settings do not give",
    "file": "a file of the log that is missing or cannot be read",
    "record": "a record that does not fit the plan",
}


@dataclass(frozen=True)
class Finding:
    """One thing that does not hold. `kind` is one of `KINDS`; None and "" where a field has no meaning."""

    kind: str
    text: str
    epoch: int | None = None
    step: int | None = None
    place: int | None = None
    key: str = ""

    def __str__(self) -> str:
        """ "label: epoch 0, step 3, place 5, key 'a': fed 2, the ledger says 4"."""
        named = [f"{name} {value}" for name in ("epoch", "step", "place") if (value := getattr(self, name)) is not None]
        where = ", ".join([*named, *([f"key '{self.key}'"] if self.key else [])])
        return f"{self.kind}: {where}{': ' if where else ''}{self.text}"


@dataclass(frozen=True)
class EpochAudit:
    """One epoch in numbers. Samples: `fed` are different ones; `twice` counts records beyond a sample's
    copies (its first, without repeated augmentation)."""

    epoch: int
    samples: int
    fed: int
    dropped: int
    excluded: int
    twice: int
    holes: int
    findings: Mapping[str, int]

    @property
    def holds(self) -> bool:
        """Every sample is accounted for, and nothing was found."""
        return self.fed + self.dropped + self.excluded == self.samples and not self.twice and not self.findings


@dataclass(frozen=True)
class AuditReport:
    """The audit of one pre-training run.

    Attributes:
        name: of the stage.
        directory: of the artifact.
        epochs: one by one.
        findings: the first `NAMED` of each kind and epoch.
        counts: all of them by kind.
        attempts: of the lineage, in their order, each with the step that it began at.
        replayed: records that the final weights do not descend from.
        workers: largest number of ranks that a part of the log has.
        ledger: the ledger that was compared; None where there is none.
    """

    name: str
    directory: Path
    epochs: tuple[EpochAudit, ...]
    findings: tuple[Finding, ...]
    counts: Mapping[str, int]
    attempts: tuple[tuple[str, int], ...]
    replayed: int
    workers: int
    ledger: Path | None

    @property
    def holds(self) -> bool:
        """Nothing was found."""
        return bool(self.epochs) and not self.findings and all(epoch.holds for epoch in self.epochs)


class Findings:
    """Collects findings: counts all, keeps the first of each kind and epoch."""

    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self._counts: Counter[tuple[int | None, str]] = Counter()
        self._named: Counter[tuple[int | None, str]] = Counter()

    def add(
        self,
        kind: str,
        text: str,
        *,
        epoch: int | None = None,
        step: int | None = None,
        place: int | None = None,
        key: str = "",
        count: int = 1,
    ) -> None:
        """Note one finding that stands for `count` records."""
        if self._named[epoch, kind] < NAMED:
            self.kept.append(Finding(kind, text, epoch, step, place, key))
            self._named[epoch, kind] += 1
        self._counts[epoch, kind] += count

    def add_each(self, kind: str, epoch: int, rows: NDArray[np.int64], tell: Callable[[int], Finding]) -> None:
        """Note one finding a row; `tell` is asked only for those that are kept."""
        if not len(rows):
            return
        named = rows[: self.room(kind, epoch)]
        self.kept += [tell(row) for row in named.tolist()]
        self._named[epoch, kind] += len(named)
        self._counts[epoch, kind] += len(rows)

    def room(self, kind: str, epoch: int) -> int:
        """How many more findings of a kind and epoch are kept."""
        return NAMED - self._named[epoch, kind]

    def of(self, epoch: int) -> dict[str, int]:
        """How many findings of each kind an epoch has."""
        return {kind: count for (where, kind), count in self._counts.items() if where == epoch}

    def counts(self) -> dict[str, int]:
        """How many findings of each kind there are."""
        total: Counter[str] = Counter()
        for (_, kind), count in self._counts.items():
            total[kind] += count
        return dict(total)
