"""Every way of tampering with what was fed, and in which order, is found and named."""

import json

import numpy as np
import pytest
from pyarrow import feather

from nml_ray.data.draw import hash_of
from tests.pretrain.audit.audited import (
    BROKEN,
    EXCLUDED,
    STEPS,
    audit,
    edited,
    log_file,
    only,
    planned_key,
    rows,
)
from tests.pretrain.conftest import CLASSES


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


def test_many_findings_are_counted_and_some_named(store, data):
    def change(columns):
        columns["label"] = (columns["label"] + 1) % 5
        return columns

    edited(log_file(store), change)
    report = audit(store, data)
    assert report.counts == {"label": 192}
    assert len(report.findings) == 20


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


def holes_file(root):
    return log_file(root).parent.parent / "holes-0.jsonl"


def test_holes_without_their_reasons_are_named(store, data):
    lines = holes_file(store).read_text().splitlines()
    holes_file(store).unlink()
    findings = only(audit(store, data), "hole", len(lines))
    hole = json.loads(lines[0])
    assert (findings[0].step, findings[0].place, findings[0].key) == (hole["step"], hole["place"], hole["key"])
    assert findings[0].text == "fed at weight 0 without a reason in attempt-0001/holes-*.jsonl"


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
