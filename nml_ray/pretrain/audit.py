"""The audit of a pre-training run: from what its workers really fed, was the plan kept?

The feeding logs of all ranks are joined along the lineage (see fed.py) and compared, one epoch at a time, with what
data, order and noise settings say anew: every good sample once or dropped, at its place, with its label; holes with
their reason (CONTRACTS, Audit). Nothing is believed of the run but its settings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.data.config import NoiseArm
from nml_ray.data.dataset import Dataset
from nml_ray.data.labels import labels_of, logged_labels, noise_ledger
from nml_ray.data.schedule import Schedule
from nml_ray.pretrain.audit_epoch import audit_epoch
from nml_ray.pretrain.audit_labels import audit_ledger
from nml_ray.pretrain.audit_records import EpochPlan, KeyLookup
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.fed import FedLog
from nml_ray.pretrain.findings import AuditReport, EpochAudit, Findings

DATA = "its data as it was, known bad samples included"


@dataclass(frozen=True)
class AuditedRun:
    """A finished pretrain artifact and what it was made from.

    Attributes:
        name: of the stage.
        directory: of the artifact: record.json and the attempts.
        record: its record: settings (pretrain, noise, seed), steps, steps_per_epoch, dropped_per_epoch, lineage.
        data: directory of the training split.
        label_file: of noise `kind: file`.
        ledger: ledger.parquet of its noise, if there is one.
        other_data: how the data there is told from the data that the record names; "" where it is the same.
    """

    name: str
    directory: Path
    record: Mapping[str, Any]
    data: Path
    label_file: str = ""
    ledger: Path | None = None
    other_data: str = ""


def audit_run(run: AuditedRun) -> AuditReport:
    """Audit one run.

    Raises:
        UserError: the data it was trained on is not there any more, or not the same.
    """
    if run.other_data:
        raise UserError(
            f"is not the data that it was trained on: {run.other_data}", where=f"{run.name}: {run.data}", expected=DATA
        )
    settings = PretrainSettings.model_validate(run.record["settings"]["pretrain"])
    dataset, findings = Dataset.open(run.data), Findings()
    seed = run.record["settings"]["seed"]
    schedule = Schedule(dataset, settings.order, seed, settings.batch, settings.microbatch, settings.repeats)
    given = _given(dataset, run, findings)

    steps = schedule.steps_per_epoch * settings.epochs
    lineage = _lineage(run.record, schedule, steps, findings)
    log = FedLog.open(run.directory, lineage, steps)
    for path, problem in log.problems:
        findings.add("file", f"{path.relative_to(run.directory)} {problem}")
    find = KeyLookup(dataset.key_hash)
    epochs: list[EpochAudit] = []
    for epoch in range(settings.epochs) if lineage else ():
        first = epoch * schedule.steps_per_epoch
        sizes = (settings.batch, schedule.microbatch, settings.repeats)
        plan = EpochPlan(epoch, first, *sizes, schedule.planned(epoch), given, dataset)
        epochs.append(audit_epoch(plan, log, find, findings))
    return AuditReport(
        run.name,
        run.directory,
        tuple(epochs),
        tuple(findings.kept),
        findings.counts(),
        tuple((segment.attempt, segment.first) for segment in log.segments),
        log.replayed,
        max((log.ranks(segment.attempt) for segment in log.segments), default=0),
        run.ledger,
    )


def _given(dataset: Dataset, run: AuditedRun, findings: Findings) -> NDArray[np.signedinteger]:
    """What the log must say was fed, by sample number; the ledger is compared with the same noise, made anew."""
    ledger = noise_ledger(dataset, NoiseArm.from_hashed(run.record["settings"]["noise"], run.label_file))
    if run.ledger:
        audit_ledger(run.ledger, ledger, dataset, findings)
    return logged_labels(dataset, ledger.kind, labels_of(ledger, dataset))


def _lineage(
    record: Mapping[str, Any], schedule: Schedule, steps: int, findings: Findings
) -> Sequence[Mapping[str, Any]]:
    """The record's lineage, () where it is none; what else the record says of the plan is compared."""
    expected = {
        "steps": steps,
        "steps_per_epoch": schedule.steps_per_epoch,
        "dropped_per_epoch": schedule.dropped_per_epoch,
    }
    for name, value in expected.items():
        if record.get(name) != value:
            findings.add("record", f"record.json says {name} {record.get(name)}, the plan {value}")
    lineage: Sequence[Mapping[str, Any]] = record.get("lineage") or ()
    starts: list[Any] = [entry.get("from_step") for entry in lineage]
    whole = all(type(start) is int for start in starts) and all("attempt" in entry for entry in lineage)
    if not whole or not starts or starts[0] != 0 or starts != sorted(starts) or starts[-1] > steps:
        findings.add("record", f"record.json has the lineage {list(lineage)}: attempts do not follow from step 0 on")
        return ()
    return lineage
