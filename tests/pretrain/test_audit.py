"""Clean runs pass the audit; every way of tampering with the log, the labels or the order is found and named."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from nml_ray.data.config import NoiseArm
from nml_ray.data.dataset import Dataset
from nml_ray.data.dataset_info import read_info, save_info
from nml_ray.data.draw import hash_of
from nml_ray.data.labels import noise_ledger
from nml_ray.data.ledger import write_ledger
from nml_ray.data.loader import Hole, Loader, LoaderPlan
from nml_ray.data.schedule import Schedule
from nml_ray.data.shards import write_shards
from nml_ray.pretrain.audit import AuditedRun, audit_run
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.fed import _hole_lines
from nml_ray.pretrain.feeding import FeedingLog
from nml_ray.pretrain.loop import train_group
from nml_ray.pretrain.world import World
from nml_ray.storage.artifact import Attempt
from tests.pretrain.conftest import CLASSES, group_plan, tiny_samples

STEPS = 6  # an epoch: floor(202 / 32)
BROKEN, EXCLUDED = (7, 150), "sample-0011"


class Killed(Exception):
    """Stands for the process's death at a chosen point of the loop."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """203 samples: one known to be undecodable, two that turn out so."""
    directory = tmp_path_factory.mktemp("broken")
    write_shards(tiny_samples(203, BROKEN), directory, samples_per_shard=60, classes=CLASSES)
    save_info(directory, read_info(directory).model_copy(update={"known_bad": (EXCLUDED,)}))
    return directory


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


@pytest.fixture(scope="module")
def clean(data, tmp_path_factory):
    """The store of an undisturbed run; not to be changed."""
    plan = plan_over(tmp_path_factory.mktemp("clean") / "store", data)
    return finish(plan, train(plan))


@pytest.fixture
def store(clean, tmp_path):
    """A copy to tamper with."""
    return Path(shutil.copytree(clean, tmp_path / "store"))


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


def test_an_undisturbed_run_holds(clean, data):
    report = audit(clean, data)
    assert report.holds, [str(finding) for finding in report.findings]
    assert [(epoch.samples, epoch.fed, epoch.dropped, epoch.excluded) for epoch in report.epochs] == [
        (203, 192, 10, 1),
        (203, 192, 10, 1),
    ]
    assert sum(epoch.holes for epoch in report.epochs) >= 2
    assert (report.attempts, report.replayed, report.workers) == ((("attempt-0001", 0),), 0, 1)


@pytest.mark.parametrize(("every", "until", "resumed", "replayed"), [(4, 7, 4, 0), (2, 11, 10, 0), (0, 8, 6, 0)])
def test_a_killed_and_resumed_run_holds(data, tmp_path, every, until, resumed, replayed):
    train(replace(plan_over(tmp_path / "store", data), checkpoint_steps=every), until)
    plan = plan_over(tmp_path / "store", data)
    report = audit(finish(plan, train(plan)), data)
    assert report.holds, [str(finding) for finding in report.findings]
    assert report.attempts == (("attempt-0001", 0), ("attempt-0002", resumed))
    assert report.replayed == replayed


def test_steps_that_were_fed_again_are_replayed_not_twice(data, tmp_path):
    train(replace(plan_over(tmp_path / "store", data), checkpoint_steps=2), 9)
    (attempt,) = (tmp_path / "store" / "pretrain").glob("*/attempt-0001")
    for checkpoint in sorted((attempt / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(checkpoint)  # the next attempt resumes at 6, though the log reaches 8
    plan = plan_over(tmp_path / "store", data)
    report = audit(finish(plan, train(plan)), data)
    assert report.holds, [str(finding) for finding in report.findings]
    assert report.attempts[-1] == ("attempt-0002", 6)
    assert report.replayed == 2 * 32
    assert sum(epoch.twice for epoch in report.epochs) == 0


def test_an_attempt_whose_workers_were_started_again_holds(data, tmp_path):
    plan = replace(plan_over(tmp_path / "store", data), checkpoint_steps=2)
    train(plan, 9)
    for checkpoint in sorted((Path(plan.arms[0].attempt) / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(checkpoint)
    report = audit(finish(plan, train(replace(plan, checkpoint_steps=3))), data)
    assert report.holds, [str(finding) for finding in report.findings]
    assert report.attempts == (("attempt-0001", 0), ("attempt-0001", 6))
    assert report.replayed == 2 * 32


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


@pytest.mark.parametrize("ranks", [(2, 2), (2, 1), (1, 2)])
def test_the_logs_of_all_ranks_are_joined_whatever_their_number(data, tmp_path, ranks):
    two_attempts(tmp_path / "store", data, ranks)
    report = audit(tmp_path / "store", data)
    assert report.holds, [str(finding) for finding in report.findings]
    assert (report.workers, report.replayed) == (2, 3 * 32)


def test_a_file_of_one_rank_that_is_missing_is_named(data, tmp_path):
    first, _ = two_attempts(tmp_path / "store", data, (2, 2))
    (first / "fed" / "rank-1-000000003.arrow").unlink()
    (finding,) = only(audit(tmp_path / "store", data), "missing", 3 * 16)
    assert finding.text == ("48 places of steps 0 to 2 have no record: no file attempt-0001/fed/rank-1-000000003.arrow")
    assert (finding.epoch, finding.step, finding.place) == (0, 0, 16)


def test_a_record_that_is_gone_is_named(store, data):
    edited(log_file(store), lambda columns: rows(columns, np.arange(192) != 3 * 32 + 5))
    report = audit(store, data)
    (finding,) = only(report, "missing", 1)
    assert (finding.epoch, finding.step, finding.place, finding.key) == (0, 3, 5, planned_key(data, 3, 5))
    assert "rank-0-000000006.arrow" in finding.text
    assert report.epochs[0].fed == 191 and not report.epochs[0].holds and report.epochs[1].holds


def test_a_record_that_stands_twice_is_named(store, data):
    edited(log_file(store, epoch=1), lambda columns: rows(columns, [*range(192), 40]))
    report = audit(store, data)
    (finding,) = only(report, "twice", 1)
    assert (finding.epoch, finding.step, finding.key) == (1, 7, planned_key(data, 7, 8))
    assert finding.text == "fed 2 times: step 7 place 8, step 7 place 8"
    assert report.epochs[1].twice == 1


def test_a_label_that_is_not_the_ledgers_is_named(store, data):
    def change(columns):
        columns["label"][70] = (columns["label"][70] + 1) % 5
        return columns

    edited(log_file(store), change)
    (finding,) = only(audit(store, data), "label", 1)
    assert (finding.epoch, finding.step, finding.place, finding.key) == (0, 2, 6, planned_key(data, 2, 6))
    assert "the ledger says" in finding.text


@pytest.mark.parametrize(
    ("key", "text"), [("never-seen", "which no sample of the data has"), (EXCLUDED, "excluded as undecodable")]
)
def test_a_key_that_is_not_planned_is_named(store, data, key, text):
    def change(columns):
        columns["key_hash"][0] = hash_of(key)
        columns["label"][0] = 11 % len(CLASSES)
        return columns

    edited(log_file(store), change)
    (finding,) = only(audit(store, data), "key", 1)
    assert (finding.epoch, finding.step, finding.place) == (0, 0, 0)
    assert text in finding.text


def test_two_records_that_changed_places_are_named(store, data):
    def change(columns):
        for name in ("key_hash", "label", "weight"):
            columns[name][[1, 33]] = columns[name][[33, 1]]
        return columns

    edited(log_file(store), change)
    first, second = only(audit(store, data), "order", 2)
    assert (first.step, first.place, first.text) == (0, 1, "fed here, planned for step 1 place 1")
    assert (second.step, second.place, second.text) == (1, 1, "fed here, planned for step 0 place 1")
    assert first.key == planned_key(data, 1, 1)


def test_steps_that_changed_places_are_named(store, data):
    broken = {hash_of(f"sample-{number:04d}") for number in BROKEN}
    table = feather.read_table(log_file(store))
    whole = [
        step for step in range(STEPS) if not broken & set(table["key_hash"].to_pylist()[32 * step : 32 * step + 32])
    ][:2]

    def change(columns):
        step = columns["step"].copy()
        for one, other in (whole, whole[::-1]):
            columns["step"][step == one] = other
        return columns

    edited(log_file(store), change)
    findings = only(audit(store, data), "order", 64)
    assert {(finding.step, finding.text) for finding in findings} == {
        (one, f"all 32 places fed the batch that is planned for step {other}") for one, other in (whole, whole[::-1])
    }


def test_a_sample_in_another_ones_place_is_missing_nowhere_but_fed_twice(store, data):
    def change(columns):
        for name in ("key_hash", "label"):
            columns[name][3] = columns[name][2]
        return columns

    edited(log_file(store), change)
    report = audit(store, data)
    assert {"twice", "order"} <= report.counts.keys()
    assert report.epochs[0].fed == 191


def test_a_file_that_is_missing_is_named(store, data):
    log_file(store, epoch=1).unlink()
    finding, *_ = (one for one in audit(store, data).findings if one.kind == "missing")
    assert finding.text == (
        "192 places of steps 6 to 11 have no record: no file attempt-0001/fed/rank-0-000000012.arrow"
    )


def test_a_file_that_cannot_be_read_is_named(store, data):
    path = log_file(store)
    path.write_bytes(path.read_bytes()[:-40])
    report = audit(store, data)
    assert report.counts["file"] == 1 and report.counts["missing"] == 192
    assert "attempt-0001/fed/rank-0-000000006.arrow cannot be read" in str(report.findings[0])


def test_a_log_that_is_missing_is_named(store, data):
    shutil.rmtree(log_file(store).parent)
    assert str(audit(store, data).findings[0]) == ("file: attempt-0001/fed is missing; steps 0 to 11 were fed there")


def holes_file(root):
    return log_file(root).parent.parent / "holes-0.jsonl"


def test_holes_without_their_reasons_are_named(store, data):
    lines = holes_file(store).read_text().splitlines()
    holes_file(store).unlink()
    findings = only(audit(store, data), "hole", len(lines))
    hole = json.loads(lines[0])
    assert (findings[0].step, findings[0].place, findings[0].key) == (hole["step"], hole["place"], hole["key"])
    assert findings[0].text == "fed at weight 0 without a reason in attempt-0001/holes-*.jsonl"


def test_a_line_that_a_crash_cut_short_does_not_swallow_the_next(tmp_path):
    log = FeedingLog([tmp_path], 0, "key {}".format, [np.zeros(4, np.int64)])
    log._note(0, Hole(1, 2, "junk", 3))
    whole = (tmp_path / "holes-0.jsonl").read_bytes()
    (tmp_path / "holes-0.jsonl").write_bytes(whole + whole[:20])
    log._note(1, Hole(1, 2, "junk", 3))
    lines = list(_hole_lines(tmp_path / "holes-0.jsonl"))
    assert [(line.step, line.key, line.filler) for line in lines] == [(0, "key 2", "key 3"), (1, "key 2", "key 3")]


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("reason", "", "undecodable, but its reason is empty"),
        ("key", "sample-0000", "holes-*.jsonl names key 'sample-0000' there"),
        ("filler", "sample-0000", "filled by 'sample-0000'; the nearest good sample of the microbatch is"),
    ],
)
def test_a_hole_that_was_changed_is_named(store, data, field, value, text):
    first, *rest = holes_file(store).read_text().splitlines()
    holes_file(store).write_text("\n".join([json.dumps({**json.loads(first), field: value}), *rest]) + "\n")
    (finding,) = only(audit(store, data), "hole", 1)
    assert finding.text.startswith(text)


def test_an_undecodable_image_fed_at_full_weight_is_named(store, data):
    def change(columns):
        columns["weight"][:] = 1
        return columns

    edited(log_file(store), change)
    findings = audit(store, data).findings
    assert findings and {finding.kind for finding in findings} == {"hole"}
    assert "but no record of weight 0 says so" in findings[0].text


def tampered_ledger(root, change):
    path = root / "ledger.parquet"
    table = parquet.read_table(path)
    parquet.write_table(pa.table(change(table.to_pydict()), schema=table.schema), path)


def test_a_ledger_that_the_settings_do_not_give_is_named(store, data):
    def change(columns):
        columns["given"][20] = (columns["given"][20] + 1) % 5
        return columns

    tampered_ledger(store, change)
    (finding,) = only(audit(store, data), "ledger", 1)
    assert finding.key == good_key(data, 20)
    assert finding.text.startswith("ledger.parquet says given ")


def test_a_ledger_that_lacks_a_row_is_named(store, data):
    tampered_ledger(store, lambda columns: {name: values[1:] for name, values in columns.items()})
    (finding,) = only(audit(store, data), "ledger", 1)
    assert str(finding) == f"ledger: key '{good_key(data, 0)}': ledger.parquet has no row of this key"


def test_a_ledger_that_is_missing_is_named(store, data):
    (store / "ledger.parquet").unlink()
    (finding,) = only(audit(store, data), "file", 1)
    assert "ledger.parquet cannot be read" in finding.text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("steps", 13, "record.json says steps 13, the plan 12"),
        ("dropped_per_epoch", 9, "record.json says dropped_per_epoch 9, the plan 10"),
        ("lineage", [{"attempt": "attempt-0001", "from_step": 3}], "attempts do not follow from step 0 on"),
        ("lineage", [], "attempts do not follow from step 0 on"),
        ("lineage", [{"attempt": "attempt-0001"}], "attempts do not follow from step 0 on"),
        ("lineage", [{"from_step": 0}], "attempts do not follow from step 0 on"),
    ],
)
def test_a_record_that_does_not_fit_the_plan_is_named(store, data, name, value, text):
    (path,) = (store / "pretrain").glob("*/record.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    (finding,) = only(audit(store, data), "record", 1)
    assert text in finding.text


def test_a_file_of_another_steps_is_named(store, data):
    def change(columns):
        columns["step"][:] += 100
        return columns

    edited(log_file(store), change)
    report = audit(store, data)
    assert report.counts == {"file": 1, "missing": 192, **({"hole": n} if (n := report.counts.get("hole")) else {})}
    assert "has steps 100 to 105, 192 records outside the run's 12 steps" in report.findings[0].text


def test_many_findings_are_counted_and_some_named(store, data):
    def change(columns):
        columns["label"] = (columns["label"] + 1) % 5
        return columns

    edited(log_file(store), change)
    report = audit(store, data)
    assert report.counts == {"label": 192}
    assert len(report.findings) == 20


@pytest.fixture(scope="module")
def repeated(data, tmp_path_factory):
    """The store of a run with repeated augmentation, every sample twice; not to be changed."""
    root = tmp_path_factory.mktemp("repeated") / "store"
    plan = replace(group_plan(root, data, ("0.3",), epochs=2, repeats=2), undecodable_limit=0.1)
    return finish(plan, train(plan))


@pytest.fixture
def copies(repeated, tmp_path):
    """A copy to tamper with."""
    return Path(shutil.copytree(repeated, tmp_path / "store"))


def test_repeats_are_no_samples_fed_twice(repeated, data):
    report = audit(repeated, data)
    assert report.holds, [str(finding) for finding in report.findings]
    assert [(one.samples, one.fed, one.dropped, one.excluded, one.twice) for one in report.epochs] == [
        (203, 96, 106, 1, 0)
    ] * 2


def test_a_copy_too_many_is_named(copies, data):
    def change(columns):
        for name in ("key_hash", "label"):
            columns[name][36] = columns[name][35]
        return columns

    edited(log_file(copies), change)
    report = audit(copies, data)
    assert report.counts == {"order": 1, "twice": 1} and report.epochs[0].twice == 1
    order, twice = report.findings
    assert (order.step, order.place, order.text) == (1, 4, "fed here, planned for step 1 places 2 to 3")
    assert twice.text == "fed 3 times instead of 2: step 1 place 2, step 1 place 3, step 1 place 4"


def test_a_copy_that_is_gone_is_named(copies, data):
    edited(log_file(copies), lambda columns: rows(columns, np.arange(192) != 32 + 3))
    report = audit(copies, data)
    (finding,) = only(report, "missing", 1)
    assert (finding.step, finding.place) == (1, 3) and report.epochs[0].fed == 96 and not report.epochs[0].holds


def test_copies_that_are_all_gone_leave_a_sample_unfed(copies, data):
    edited(log_file(copies), lambda columns: rows(columns, ~np.isin(np.arange(192), (34, 35))))
    report = audit(copies, data)
    assert len(only(report, "missing", 2)) == 2 and report.epochs[0].fed == 95


def test_repeats_that_were_not_fed_are_found(store, data):
    """The record claims copies that the run did not feed."""
    (path,) = (store / "pretrain").glob("*/record.json")
    record = json.loads(path.read_text())
    record["settings"]["pretrain"]["repeats"] = 2
    path.write_text(json.dumps(record))
    report = audit(store, data)
    assert {"record", "order", "key"} <= report.counts.keys()
    assert "record.json says dropped_per_epoch 10, the plan 106" in str(report.findings[0])


def test_the_log_is_read_in_parts(copies, data, tmp_path):
    """Record batches of 40 records, so that steps lie across them: the same findings."""
    parts = tmp_path / "parts"
    shutil.copytree(copies, parts)
    for epoch in (0, 1):
        path = log_file(parts, epoch)
        feather.write_feather(feather.read_table(path), path, compression="lz4", chunksize=40)
    assert audit(parts, data).holds
    for root in (copies, parts):
        for epoch in (0, 1):
            table = feather.read_table(log_file(root, epoch))
            mixed = np.random.default_rng(0).permutation(192)
            hashes, weights = table["key_hash"].to_numpy()[mixed], table["weight"].to_numpy().copy()
            weights[[5, 90]] = (0, 0.5)
            table = table.set_column(2, "key_hash", pa.array(hashes)).set_column(3, "weight", pa.array(weights))
            chunk = 40 if root == parts else None
            feather.write_feather(table, log_file(root, epoch), compression="lz4", chunksize=chunk)
    whole, cut = audit(copies, data), audit(parts, data)
    assert whole.counts == cut.counts and {"order", "label", "hole"} <= whole.counts.keys()
    assert [replace(one, findings={}) for one in whole.epochs] == [replace(one, findings={}) for one in cut.epochs]


def test_the_log_holds_no_more_than_a_part(tmp_path, data, monkeypatch):
    monkeypatch.setattr("nml_ray.pretrain.feeding.PART", 48)
    plan = plan_over(tmp_path / "store", data)
    attempt = Path(plan.arms[0].attempt)
    feed(attempt, data, 1, 0, 6, every=6)
    (path,) = (attempt / "fed").iterdir()
    with pa.OSFile(str(path)) as source:
        reader = pa.ipc.open_file(source)
        sizes = [reader.get_batch(number).num_rows for number in range(reader.num_record_batches)]
    assert sum(sizes) == 192 and max(sizes) <= 64 and path.name == "rank-0-000000006.arrow"
