"""One epoch of a run: what was fed against what was planned. Arrays in, findings out.

Records come some at a time; of a whole epoch only the plan and one counter a sample are held, and what is wrong.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nml_ray.data.loader import nearest_good
from nml_ray.pretrain.audit_records import EpochPlan, KeyLookup, Numbers, Records, joined
from nml_ray.pretrain.fed import FedLog, HoleLine
from nml_ray.pretrain.findings import EpochAudit, Finding, Findings

TOLD = ("key", "order", "missing", "twice", "label", "hole")  # in this order


def audit_epoch(plan: EpochPlan, log: FedLog, find: KeyLookup, findings: Findings) -> EpochAudit:
    """Compare the records of an epoch with its plan; what differs goes to `findings`."""
    told = len(findings.kept)
    audit = _EpochAuditor(plan, log, find, findings).audit()
    findings.kept[told:] = sorted(findings.kept[told:], key=lambda finding: TOLD.index(finding.kind))
    return audit


@dataclass(frozen=True)
class _EpochAuditor:
    plan: EpochPlan
    log: FedLog
    find: KeyLookup
    findings: Findings
    moved: list[Records] = field(default_factory=list)
    empty: list[Records] = field(default_factory=list)

    def audit(self) -> EpochAudit:
        plan, dataset = self.plan, self.plan.dataset
        times, filled = np.zeros(len(dataset), np.uint32), np.zeros(plan.slots, bool)
        for part in self.parts():
            np.add.at(times, part.numbers[part.numbers >= 0], 1)
            filled[part.slots[part.slots >= 0]] = True
            self.look_at(part)
        self.moved_records()
        self.missing(filled)
        self.twice(times)
        holes = self.holes()
        return EpochAudit(
            epoch=plan.epoch,
            samples=len(dataset),
            fed=int(np.count_nonzero(times)),
            dropped=len(dataset.good) - len(plan.planned),
            excluded=len(dataset) - len(dataset.good),
            twice=int(np.sum(times[times > plan.repeats] - plan.repeats)),
            holes=holes,
            findings=self.findings.of(plan.epoch),
        )

    def parts(self) -> Iterator[Records]:
        """All records of the epoch, some at a time."""
        for rows in self.log.parts(self.plan.first, self.plan.stop):
            yield Records.of(self.plan, rows, self.find)

    def look_at(self, part: Records) -> None:
        """What can be told of each record alone; moved ones and holes are kept for later."""
        plan, rows, add_each = self.plan, part.rows, self.findings.add_each
        right = (part.slots >= 0) & (part.numbers == plan.planned[np.maximum(part.slots, 0) // plan.repeats])
        if not right.all():
            wrong = part[~right]
            add_each("key", plan.epoch, np.flatnonzero(wrong.cells < 0), lambda row: self.not_planned(wrong, row))
            self.moved.append(wrong[wrong.cells >= 0])
        self.labels(part)
        if not (rows.weight == 1).all():
            strange = np.flatnonzero((rows.weight != 0) & (rows.weight != 1))
            add_each(
                "hole", plan.epoch, strange, lambda row: part.finding("hole", row, f"has weight {rows.weight[row]:g}")
            )
            self.empty.append(part[rows.weight == 0])

    def labels(self, part: Records) -> None:
        """The label of every record of a known sample against the ledger's."""
        known = part.numbers >= 0
        wrong = np.flatnonzero(known & (part.rows.label != self.plan.given[part.numbers]))

        def tell(row: int) -> Finding:
            given = int(self.plan.given[part.numbers[row]])
            return part.finding("label", row, f"fed label {int(part.rows.label[row])}, the ledger says {given}")

        self.findings.add_each("label", self.plan.epoch, wrong, tell)

    def not_planned(self, part: Records, row: int) -> Finding:
        number = int(part.numbers[row])
        if number < 0:
            text = f"fed a key of hash {int(part.rows.key_hash[row]):016x}, which no sample of the data has"
            if part.slots[row] >= 0:
                text += f"; planned is '{self.plan.key_at(int(part.slots[row]))}'"
            return part.finding("key", row, text)
        good = self.plan.dataset.good
        at = int(np.searchsorted(good, number))
        excluded = at == len(good) or good[at] != number
        return part.finding("key", row, f"fed, but {'excluded as undecodable' if excluded else 'dropped'} by the plan")

    def moved_records(self) -> None:
        """Samples of the epoch that were fed at another place: whole steps as one finding each, and single records."""
        part = joined(self.plan, self.moved)
        single = np.flatnonzero(~self.whole_steps(part))

        def tell(row: int) -> Finding:
            return part.finding("order", row, f"fed here, planned for {self.plan.at(int(part.cells[row]))}")

        self.findings.add_each("order", self.plan.epoch, single, tell)

    def whole_steps(self, part: Records) -> NDArray[np.bool_]:
        """Marks the records of steps that fed exactly the batch of another step, told as one finding a step."""
        plan, told = self.plan, np.zeros(len(part), bool)
        different = plan.batch // plan.repeats
        order = np.argsort(part.rows.step, kind="stable")
        steps, starts = np.unique(part.rows.step[order], return_index=True)
        for step, rows in zip(steps.tolist(), np.split(order, starts[1:]), strict=False):
            shift = np.unique(part.cells[rows] - part.slots[rows] // plan.repeats)
            if len(rows) == plan.batch and len(shift) == 1 and shift[0] % different == 0:
                other = step + int(shift[0]) // different
                text = f"all {plan.batch} places fed the batch that is planned for step {other}"
                self.findings.add("order", text, epoch=plan.epoch, step=step, count=len(rows))
                told[rows] = True
        return told

    def missing(self, filled: NDArray[np.bool_]) -> None:
        """Planned places without a record: microbatches without any, by run of steps, and single places."""
        plan = self.plan
        absent = np.flatnonzero(~filled)
        if not len(absent):
            return
        microbatch = absent // plan.microbatch
        whole = np.bincount(microbatch, minlength=len(filled) // plan.microbatch)[microbatch] == plan.microbatch
        self.missing_microbatches(absent[whole])

        def tell(slot: int) -> Finding:
            step, place = plan.step_place(slot)
            segment, rank = (int(values[0]) for values in self.origin(np.array([slot])))
            path, _ = self.log.file_of(self.log.segments[segment].attempt, rank, step)
            return Finding("missing", f"no record in {self.short(path)}", plan.epoch, step, place, plan.key_at(slot))

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
                key = plan.key_at(int(part[0]))
                self.findings.add("missing", text, epoch=plan.epoch, step=first, place=place, key=key, count=len(part))

    def short(self, path: Path) -> str:
        """A path below the artifact."""
        return str(path.relative_to(self.log.directory))

    def twice(self, times: NDArray[np.uint32]) -> None:
        """Samples with more records than they have copies."""
        plan = self.plan
        often = np.flatnonzero(times > plan.repeats)
        if not len(often):
            return
        named = often[: self.findings.room("twice", plan.epoch)]
        part = joined(plan, [part[np.isin(part.numbers, named)] for part in self.parts()])

        def tell(number: int) -> Finding:
            rows = np.flatnonzero(part.numbers == number)
            where = ", ".join(f"step {part.rows.step[row]} place {part.rows.place[row]}" for row in rows[:4])
            instead = f" instead of {plan.repeats}" if plan.repeats > 1 else ""
            text = f"fed {len(rows)} times{instead}: {where}{', ...' if len(rows) > 4 else ''}"
            return part.finding("twice", int(rows[0]), text)

        self.findings.add_each("twice", plan.epoch, often, tell)

    def holes(self) -> int:
        """Each undecodable image has its reason and the right filler, and is fed at weight 0."""
        plan, part = self.plan, joined(self.plan, self.empty)
        _, first = np.unique(np.stack([part.rows.step, part.rows.place]), axis=1, return_index=True)
        part = part[first]
        bad = np.sort(part.slots[part.slots >= 0])
        for row, (step, place) in enumerate(zip(part.rows.step.tolist(), part.rows.place.tolist(), strict=True)):
            for text in self.wrong_with_hole(part, row, self.log.holes.get((step, place), ()), bad):
                self.findings.add("hole", text, epoch=plan.epoch, step=step, place=place, key=part.key(row))
        for (step, place), lines in self.log.holes.items():
            slot = (step - plan.first) * plan.batch + place
            if plan.first <= step < plan.stop and not _has(bad, slot):
                text = f"undecodable ({lines[0].reason}), but no record of weight 0 says so"
                self.findings.add("hole", text, epoch=plan.epoch, step=step, place=place, key=lines[0].key)
        return sum(map(len, self.empty))

    def wrong_with_hole(self, part: Records, row: int, lines: Sequence[HoleLine], bad: Numbers) -> Iterator[str]:
        if not lines:
            attempts = dict.fromkeys(
                one.attempt for one in self.log.segments if one.first <= part.rows.step[row] < one.stop
            )
            yield f"fed at weight 0 without a reason in {', '.join(f'{name}/holes-*.jsonl' for name in attempts)}"
        slot = int(part.slots[row])
        filler = self.filler(slot, bad) if lines and slot >= 0 else ""
        for line in lines:
            if not line.reason.strip():
                yield "undecodable, but its reason is empty"
            if line.key != part.key(row):
                yield f"holes-*.jsonl names key '{line.key}' there"
            if filler != "" and line.filler != filler:
                yield f"filled by '{line.filler}'; the nearest good sample of the microbatch is '{filler}'"

    def filler(self, slot: int, bad: Numbers) -> str | None:
        """The key whose image fills a hole: the nearest good one of its microbatch; None where all are bad."""
        size = self.plan.microbatch
        first = slot // size * size
        others = bad[np.searchsorted(bad, first) : np.searchsorted(bad, first + size)]
        nearest = nearest_good(slot - first, size, dict.fromkeys((others - first).tolist(), ""))
        return None if nearest < 0 else self.plan.key_at(first + nearest)


def _has(numbers: Numbers, number: int) -> bool:
    """Whether a number is among sorted ones."""
    at = int(np.searchsorted(numbers, number))
    return at < len(numbers) and int(numbers[at]) == number
