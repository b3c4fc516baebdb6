"""One epoch of a run: what was fed against what was planned. Arrays in, findings out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nml_ray.data.dataset import Dataset
from nml_ray.data.loader import nearest_good
from nml_ray.pretrain.fed import FedLog, FedRows, HoleLine
from nml_ray.pretrain.findings import EpochAudit, Finding, Findings

Numbers = NDArray[np.int64]


class KeyLookup:
    """Sample numbers by key hash."""

    def __init__(self, key_hash: NDArray[np.uint64]) -> None:
        self._order = np.argsort(key_hash)
        self._sorted = key_hash[self._order]

    def __call__(self, hashes: NDArray[np.uint64]) -> Numbers:
        """int64[R], -1 where no sample has the hash."""
        at = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
        return np.where(self._sorted[at] == hashes, self._order[at], -1).astype(np.int64)


@dataclass(frozen=True)
class EpochPlan:
    """What an epoch is to feed.

    Attributes:
        epoch: from 0.
        first: its first step.
        batch, microbatch: samples of each.
        planned: sample number by slot, int64[S * batch]; slot = (step - first) * batch + place.
        given: label by sample number, int64[N].
        dataset: where the numbers point to.
    """

    epoch: int
    first: int
    batch: int
    microbatch: int
    planned: Numbers
    given: Numbers
    dataset: Dataset

    @cached_property
    def slot_of(self) -> Numbers:
        """The slot of each sample, int64[N], -1 where the epoch does not feed it."""
        slots = np.full(len(self.dataset), -1, np.int64)
        slots[self.planned] = np.arange(len(self.planned))
        return slots

    @property
    def stop(self) -> int:
        """The step after the last."""
        return self.first + len(self.planned) // self.batch

    def step_place(self, slot: int) -> tuple[int, int]:
        """The step and the place of a slot."""
        step, place = divmod(slot, self.batch)
        return self.first + step, place

    def at(self, slot: int) -> str:
        """ "step 3 place 5"."""
        return "step {} place {}".format(*self.step_place(slot))


def audit_epoch(plan: EpochPlan, log: FedLog, find: KeyLookup, findings: Findings) -> EpochAudit:
    """Compare the records of an epoch with its plan; what differs goes to `findings`."""
    rows = log.rows(plan.first, plan.stop)
    return _EpochAuditor(plan, log, rows, find(rows.key_hash), findings).audit()


@dataclass(frozen=True)
class _EpochAuditor:
    plan: EpochPlan
    log: FedLog
    rows: FedRows
    numbers: Numbers
    findings: Findings

    def audit(self) -> EpochAudit:
        plan, dataset = self.plan, self.plan.dataset
        known = self.numbers >= 0
        times = np.bincount(self.numbers[known], minlength=len(dataset))
        self.places()
        self.missing()
        self.twice(times)
        self.labels(np.flatnonzero(known))
        holes = self.holes()
        return EpochAudit(
            epoch=plan.epoch,
            samples=len(dataset),
            fed=int(np.count_nonzero(times)),
            dropped=len(dataset.good) - len(plan.planned),
            excluded=len(dataset) - len(dataset.good),
            twice=int(np.sum(np.maximum(times - 1, 0))),
            holes=holes,
            findings=self.findings.of(plan.epoch),
        )

    @cached_property
    def in_batch(self) -> NDArray[np.bool_]:
        return (self.rows.place >= 0) & (self.rows.place < self.plan.batch)

    @cached_property
    def slots(self) -> Numbers:
        """By record; -1 where the place is none of the batch."""
        slots = (self.rows.step - self.plan.first) * self.plan.batch + self.rows.place
        return np.where(self.in_batch, slots, -1)

    def key(self, row: int) -> str:
        number = int(self.numbers[row])
        return self.plan.dataset.key(number) if number >= 0 else ""

    def finding(self, kind: str, row: int, text: str) -> Finding:
        return Finding(kind, text, self.plan.epoch, int(self.rows.step[row]), int(self.rows.place[row]), self.key(row))

    def places(self) -> None:
        """Every record's sample against the plan's at its place."""
        plan, add_each = self.plan, self.findings.add_each
        planned_slot = np.where(self.numbers >= 0, plan.slot_of[self.numbers], -1)
        strange = planned_slot < 0
        add_each("key", plan.epoch, np.flatnonzero(strange), self.not_planned)
        moved = ~strange & (planned_slot != self.slots)
        moved &= ~self.whole_steps(np.flatnonzero(moved), planned_slot)

        def tell(row: int) -> Finding:
            return self.finding("order", row, f"fed here, planned for {plan.at(int(planned_slot[row]))}")

        add_each("order", plan.epoch, np.flatnonzero(moved), tell)

    def not_planned(self, row: int) -> Finding:
        number = int(self.numbers[row])
        if number < 0:
            text = f"fed a key of hash {int(self.rows.key_hash[row]):016x}, which no sample of the data has"
            if self.in_batch[row]:
                text += f"; planned is '{self.plan.dataset.key(int(self.plan.planned[self.slots[row]]))}'"
            return self.finding("key", row, text)
        good = self.plan.dataset.good
        at = int(np.searchsorted(good, number))
        excluded = at == len(good) or good[at] != number
        return self.finding("key", row, f"fed, but {'excluded as undecodable' if excluded else 'dropped'} by the plan")

    def whole_steps(self, moved: Numbers, planned_slot: Numbers) -> NDArray[np.bool_]:
        """Marks the records of steps that fed exactly the batch of another step, told as one finding a step."""
        plan, told = self.plan, np.zeros(len(self.rows), bool)
        moved = moved[np.argsort(self.rows.step[moved], kind="stable")]
        steps, starts = np.unique(self.rows.step[moved], return_index=True)
        for step, rows in zip(steps.tolist(), np.split(moved, starts[1:]), strict=False):
            shift = np.unique(planned_slot[rows] - self.slots[rows])
            if len(rows) == plan.batch and len(shift) == 1 and shift[0] % plan.batch == 0:
                other = step + int(shift[0]) // plan.batch
                text = f"all {plan.batch} places fed the batch that is planned for step {other}"
                self.findings.add("order", text, epoch=plan.epoch, step=step, count=len(rows))
                told[rows] = True
        return told

    def missing(self) -> None:
        """Planned places without a record: microbatches without any, by run of steps, and single places."""
        plan = self.plan
        filled = np.zeros(len(plan.planned), bool)
        filled[self.slots[self.in_batch]] = True
        absent = np.flatnonzero(~filled)
        microbatch = absent // plan.microbatch
        whole = np.bincount(microbatch, minlength=len(filled) // plan.microbatch)[microbatch] == plan.microbatch
        self.missing_microbatches(absent[whole])

        def tell(slot: int) -> Finding:
            step, place = plan.step_place(slot)
            segment, rank = (int(values[0]) for values in self.origin(np.array([slot])))
            path, _ = self.log.file_of(self.log.segments[segment].attempt, rank, step)
            key = plan.dataset.key(int(plan.planned[slot]))
            return Finding("missing", f"no record in {self.short(path)}", plan.epoch, step, place, key)

        self.findings.add_each("missing", plan.epoch, absent[~whole], tell)

    def origin(self, slots: Numbers) -> tuple[Numbers, Numbers]:
        """The segment of the lineage that each slot belongs to, and the rank that feeds it there."""
        plan, segments = self.plan, self.log.segments
        stops = np.array([segment.stop for segment in segments])
        ranks = np.array([self.log.ranks(segment.attempt) for segment in segments])
        segment = np.searchsorted(stops, plan.first + slots // plan.batch, side="right")
        return segment, slots % plan.batch // plan.microbatch % ranks[segment]

    def missing_microbatches(self, slots: Numbers) -> None:
        plan = self.plan
        origins = np.stack([*self.origin(slots)], axis=1)
        for segment, rank in np.unique(origins, axis=0).tolist():
            own = slots[(origins == (segment, rank)).all(axis=1)]
            steps = plan.first + own // plan.batch
            for part in np.split(own, np.flatnonzero(np.diff(steps) > 1) + 1):
                first, place = plan.step_place(int(part[0]))
                last, _ = plan.step_place(int(part[-1]))
                path, there = self.log.file_of(self.log.segments[segment].attempt, rank, first)
                why = f"not in {self.short(path)}" if there else f"no file {self.short(path)}"
                text = f"{len(part)} places of steps {first} to {last} have no record: {why}"
                key = plan.dataset.key(int(plan.planned[part[0]]))
                self.findings.add("missing", text, epoch=plan.epoch, step=first, place=place, key=key, count=len(part))

    def short(self, path: Path) -> str:
        """A path below the artifact."""
        return str(path.relative_to(self.log.directory))

    def twice(self, times: NDArray[np.intp]) -> None:
        """Samples with more than one record."""

        def tell(number: int) -> Finding:
            rows = np.flatnonzero(self.numbers == number)
            where = ", ".join(f"step {self.rows.step[row]} place {self.rows.place[row]}" for row in rows[:4])
            more = ", ..." if len(rows) > 4 else ""
            return self.finding("twice", int(rows[0]), f"fed {len(rows)} times: {where}{more}")

        self.findings.add_each("twice", self.plan.epoch, np.flatnonzero(times > 1), tell)

    def labels(self, known: Numbers) -> None:
        """The label of every record of a known sample against the ledger's."""
        expected = self.plan.given[self.numbers[known]]

        def tell(row: int) -> Finding:
            given = int(self.plan.given[self.numbers[row]])
            return self.finding("label", row, f"fed label {int(self.rows.label[row])}, the ledger says {given}")

        self.findings.add_each("label", self.plan.epoch, known[self.rows.label[known] != expected], tell)

    def holes(self) -> int:
        """Weights are 0 at undecodable images, each with its reason and the right filler, and 1 elsewhere."""
        plan, rows = self.plan, self.rows
        strange = np.flatnonzero((rows.weight != 0) & (rows.weight != 1))
        self.findings.add_each(
            "hole", plan.epoch, strange, lambda row: self.finding("hole", row, f"has weight {rows.weight[row]:g}")
        )
        empty = np.flatnonzero(rows.weight == 0)
        at = {(int(rows.step[row]), int(rows.place[row])): row for row in empty.tolist()}
        for (step, place), row in at.items():
            for text in self.wrong_with_hole(row, self.log.holes.get((step, place), ()), at):
                self.findings.add("hole", text, epoch=plan.epoch, step=step, place=place, key=self.key(row))
        for (step, place), lines in self.log.holes.items():
            if plan.first <= step < plan.stop and (step, place) not in at:
                text = f"undecodable ({lines[0].reason}), but no record of weight 0 says so"
                self.findings.add("hole", text, epoch=plan.epoch, step=step, place=place, key=lines[0].key)
        return len(empty)

    def wrong_with_hole(
        self, row: int, lines: Sequence[HoleLine], holes: Mapping[tuple[int, int], int]
    ) -> Iterator[str]:
        if not lines:
            attempts = dict.fromkeys(
                one.attempt for one in self.log.segments if one.first <= self.rows.step[row] < one.stop
            )
            yield f"fed at weight 0 without a reason in {', '.join(f'{name}/holes-*.jsonl' for name in attempts)}"
        filler = self.filler(row, holes) if lines and self.in_batch[row] else ""
        for line in lines:
            if not line.reason.strip():
                yield "undecodable, but its reason is empty"
            if line.key != self.key(row):
                yield f"holes-*.jsonl names key '{line.key}' there"
            if filler != "" and line.filler != filler:
                yield f"filled by '{line.filler}'; the nearest good sample of the microbatch is '{filler}'"

    def filler(self, row: int, holes: Mapping[tuple[int, int], int]) -> str | None:
        """The key whose image fills a hole: the nearest good one of its microbatch; None where all are bad."""
        plan, step, place = self.plan, int(self.rows.step[row]), int(self.rows.place[row])
        first = place // plan.microbatch * plan.microbatch
        bad = {at - first: "" for at in range(first, first + plan.microbatch) if (step, at) in holes}
        nearest = nearest_good(place - first, plan.microbatch, bad)
        if nearest < 0:
            return None
        return plan.dataset.key(int(plan.planned[(step - plan.first) * plan.batch + first + nearest]))
