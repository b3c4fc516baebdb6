"""Runs to be audited, whole or killed on the way, and their logs to tamper with."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import feather

from nml_ray.data.config import NoiseArm
from nml_ray.data.dataset import Dataset
from nml_ray.data.labels import noise_ledger
from nml_ray.data.ledger import write_ledger
from nml_ray.data.loader import Loader, LoaderPlan
from nml_ray.data.schedule import Schedule
from nml_ray.pretrain.audit import AuditedRun, audit_run
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.feeding import FeedingLog
from nml_ray.pretrain.loop import train_group
from nml_ray.pretrain.world import World
from nml_ray.storage.artifact import Attempt
from tests.pretrain.conftest import group_plan

STEPS = 6  # an epoch: floor(202 / 32)
BROKEN, EXCLUDED = (7, 150), "sample-0011"


class Killed(Exception):
    """Stands for the process's death at a chosen point of the loop."""


def plan_over(root, data):
    return replace(group_plan(root, data, ("0.3",), epochs=2), undecodable_limit=0.05)


def train(plan, until=None):
    """Train the plan's arm; die after `until` steps if that is given."""

    def report(done, total, unit):
        if until is not None and done >= until * 32:
            raise Killed

    if until is None:
        return train_group(plan, World(), report)[0].facts
    with pytest.raises(Killed):
        train_group(plan, World(), report)
    return None


def finish(plan, facts):
    """The artifact of a plan's arm, as the pretrain stage and the ledger stage leave it."""
    attempt = Attempt(Path(plan.arms[0].attempt))
    settings = {"pretrain": dict(plan.settings), "noise": dict(plan.arms[0].noise), "seed": plan.seed}
    attempt.finish(settings=settings, **facts)
    dataset = Dataset.open(plan.data)
    ledger = noise_ledger(dataset, NoiseArm.from_hashed(plan.arms[0].noise))
    write_ledger(attempt.path.parents[2] / "ledger.parquet", dataset.keys.take(pa.array(dataset.good)), ledger)
    return attempt.path.parents[2]


def audit(root, data):
    (directory,) = (root / "pretrain").iterdir()
    record = json.loads((directory / "record.json").read_text())
    return audit_run(AuditedRun("arm", directory, record, data, ledger=root / "ledger.parquet"))


def log_file(root, epoch=0, attempt=1):
    (directory,) = (root / "pretrain").iterdir()
    return directory / f"attempt-{attempt:04d}" / "fed" / f"rank-0-{(epoch + 1) * STEPS:09d}.arrow"


def edited(path, change):
    """Rewrite a file of the log; `change` gets and returns its columns."""
    table = feather.read_table(path)
    columns = {name: table[name].to_numpy().copy() for name in table.column_names}
    feather.write_feather(pa.table(change(columns)), path, compression="lz4")


def rows(columns, chosen):
    return {name: values[chosen] for name, values in columns.items()}


def planned_key(data, step, place):
    dataset, settings = Dataset.open(data), plan_settings()
    schedule = Schedule(dataset, settings.order, 1, settings.batch, settings.microbatch)
    return dataset.key(int(schedule.batch(step).numbers[place]))


def good_key(data, place):
    dataset = Dataset.open(data)
    return dataset.key(int(dataset.good[place]))


def plan_settings():
    return PretrainSettings.model_validate({"batch": 32, "microbatch": 16, "epochs": 2})


def only(report, kind, count):
    """The findings of a report, which must be `count` of one kind."""
    assert not report.holds
    assert report.counts == {kind: count}, [str(finding) for finding in report.findings]
    return report.findings


def feed(attempt, data, ranks, start, stop, every=3):
    """Read and log the steps start .. stop - 1 as `ranks` workers do, without a model between."""
    dataset, settings = Dataset.open(data), plan_settings()
    schedule = Schedule(dataset, settings.order, 1, 32, 16)
    arm = NoiseArm("symmetric", "0.3", 3, {"count": "exact", "stratify": True, "over": "others"})
    given = dataset.label.copy()
    given[dataset.good] = noise_ledger(dataset, arm).given
    for rank in range(ranks):
        loader = Loader(dataset, LoaderPlan(1, 16, 1, 12, settings.augmentation, schedule.batch), rank, ranks)
        log = FeedingLog([attempt], rank, dataset.key, [given])
        for step, microbatches in zip(range(start, stop), loader.steps(start, stop), strict=True):
            log.add(step, microbatches)
            if (step + 1) % every == 0 or step + 1 == stop:
                log.cut(step + 1).finish()


def two_attempts(root, data, ranks):
    """Two attempts, the second resumed at step 6 of the 9 that the first fed, each with its number of workers."""
    directories = []
    for number, (first, stop) in enumerate(((0, 9), (6, 12))):
        plan = plan_over(root, data)
        directories.append(Path(plan.arms[0].attempt))
        feed(directories[-1], data, ranks[number], first, stop)
    lineage = [{"attempt": path.name, "from_step": step} for path, step in zip(directories, (0, 6), strict=True)]
    finish(plan, {"steps": 12, "steps_per_epoch": 6, "dropped_per_epoch": 10, "lineage": lineage})
    return directories
