"""The plan of an epoch and the records of its log, told by sample and place: what the audit compares."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nml_ray.data.dataset import Dataset
from nml_ray.pretrain.fed import FedRows
from nml_ray.pretrain.findings import Finding

Numbers = NDArray[np.int64]


class KeyLookup:
    """Sample numbers by key hash."""

    def __init__(self, key_hash: NDArray[np.uint64]) -> None:
        self._hashes = key_hash

    @cached_property
    def _order(self) -> NDArray[np.uint32]:
        return np.argsort(self._hashes).astype(np.uint32)

    @cached_property
    def _sorted(self) -> NDArray[np.uint64]:
        return self._hashes[self._order]

    def __call__(self, hashes: NDArray[np.uint64]) -> Numbers:
        """int64[R], -1 where no sample has the hash."""
        if not len(hashes):
            return np.empty(0, np.int64)
        at = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
        return np.where(self._sorted[at] == hashes, self._order[at], np.int64(-1))

    def near(self, hashes: NDArray[np.uint64], expected: NDArray[np.integer]) -> Numbers:
        """As a call, where most hashes are those of the expected numbers (any number where nothing is expected)."""
        hit = self._hashes[expected] == hashes
        numbers = np.where(hit, expected, np.int64(-1))
        numbers[~hit] = self(hashes[~hit])
        return numbers


@dataclass(frozen=True)
class EpochPlan:
    """What an epoch is to feed.

    Attributes:
        epoch: from 0.
        first: its first step.
        batch, microbatch: samples of each.
        repeats: copies of each sample in its batch.
        planned: sample number by cell, uint32[S * batch / repeats]; cell = slot // repeats, and
            slot = (step - first) * batch + place.
        given: label by sample number, int32[N].
        dataset: where the numbers point to.
    """

    epoch: int
    first: int
    batch: int
    microbatch: int
    repeats: int
    planned: NDArray[np.unsignedinteger]
    given: NDArray[np.signedinteger]
    dataset: Dataset

    @cached_property
    def cell_of(self) -> NDArray[np.int32]:
        """The cell of each sample, int32[N], -1 where the epoch does not feed it."""
        cells = np.full(len(self.dataset), -1, np.int32)
        cells[self.planned] = np.arange(len(self.planned), dtype=np.int32)
        return cells

    @property
    def slots(self) -> int:
        """Places of all batches."""
        return len(self.planned) * self.repeats

    @property
    def stop(self) -> int:
        """The step after the last."""
        return self.first + self.slots // self.batch

    def step_place(self, slot: int) -> tuple[int, int]:
        """The step and the place of a slot."""
        step, place = divmod(slot, self.batch)
        return self.first + step, place

    def at(self, cell: int) -> str:
        """ "step 3 place 5", or "step 3 places 4 to 5" with repeats."""
        step, place = self.step_place(cell * self.repeats)
        places = f"places {place} to {place + self.repeats - 1}" if self.repeats > 1 else f"place {place}"
        return f"step {step} {places}"

    def key_at(self, slot: int) -> str:
        """The key planned for a slot."""
        return self.dataset.key(int(self.planned[slot // self.repeats]))


@dataclass(frozen=True)
class Records:
    """Some records: with the number of each one's sample (-1 unknown) and its slot (-1: its place is of no batch)."""

    plan: EpochPlan
    rows: FedRows
    numbers: Numbers
    slots: Numbers

    @classmethod
    def of(cls, plan: EpochPlan, rows: FedRows, find: KeyLookup) -> "Records":
        in_batch = (rows.place >= 0) & (rows.place < plan.batch)
        slots = np.where(in_batch, (rows.step - plan.first) * plan.batch + rows.place, -1)
        expected = plan.planned[np.maximum(slots, 0) // plan.repeats]
        return cls(plan, rows, find.near(rows.key_hash, expected), slots)

    def __getitem__(self, some: NDArray[Any]) -> "Records":
        rows = FedRows(**{name: values[some] for name, values in vars(self.rows).items()})
        return Records(self.plan, rows, self.numbers[some], self.slots[some])

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def cells(self) -> NDArray[np.signedinteger]:
        """Where each record's sample is planned; -1 where it is not."""
        return np.where(self.numbers >= 0, self.plan.cell_of[self.numbers], np.int32(-1))

    def key(self, row: int) -> str:
        number = int(self.numbers[row])
        return self.plan.dataset.key(number) if number >= 0 else ""

    def finding(self, kind: str, row: int, text: str) -> Finding:
        return Finding(kind, text, self.plan.epoch, int(self.rows.step[row]), int(self.rows.place[row]), self.key(row))


def joined(plan: EpochPlan, parts: Sequence[Records]) -> Records:
    """Parts as one; none of them is too much to hold."""
    none = np.empty(0, np.int64)
    nothing = FedRows(none, none, np.empty(0, np.uint64), none, np.empty(0, np.float32))
    parts = [Records(plan, nothing, none, none), *parts]
    rows = FedRows(**{name: np.concatenate([getattr(part.rows, name) for part in parts]) for name in vars(nothing)})
    numbers, slots = (np.concatenate([getattr(part, name) for part in parts]) for name in ("numbers", "slots"))
    return Records(plan, rows, numbers, slots)
