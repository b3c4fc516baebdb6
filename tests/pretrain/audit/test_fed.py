"""The files of the feeding log: missing, unreadable, strange, read in parts."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import feather

from nml_ray.data.loader import Hole
from nml_ray.pretrain.fed import _hole_lines
from nml_ray.pretrain.feeding import FeedingLog
from tests.pretrain.audit.audited import audit, edited, feed, log_file, only, plan_over, two_attempts


def test_a_file_of_one_rank_that_is_missing_is_named(data, tmp_path):
    first, _ = two_attempts(tmp_path / "store", data, (2, 2))
    (first / "fed" / "rank-1-000000003.arrow").unlink()
    (finding,) = only(audit(tmp_path / "store", data), "missing", 3 * 16)
    assert finding.text == ("48 places of steps 0 to 2 have no record: no file attempt-0001/fed/rank-1-000000003.arrow")
    assert (finding.epoch, finding.step, finding.place) == (0, 0, 16)


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


def test_a_file_of_another_steps_is_named(store, data):
    def change(columns):
        columns["step"][:] += 100
        return columns

    edited(log_file(store), change)
    report = audit(store, data)
    assert report.counts == {"file": 1, "missing": 192, **({"hole": n} if (n := report.counts.get("hole")) else {})}
    assert "has steps 100 to 105, 192 records outside the run's 12 steps" in report.findings[0].text


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


def test_a_line_that_a_crash_cut_short_does_not_swallow_the_next(tmp_path):
    log = FeedingLog([tmp_path], 0, "key {}".format, [np.zeros(4, np.int64)])
    log._note(0, Hole(1, 2, "junk", 3))
    whole = (tmp_path / "holes-0.jsonl").read_bytes()
    (tmp_path / "holes-0.jsonl").write_bytes(whole + whole[:20])
    log._note(1, Hole(1, 2, "junk", 3))
    lines = list(_hole_lines(tmp_path / "holes-0.jsonl"))
    assert [(line.step, line.key, line.filler) for line in lines] == [(0, "key 2", "key 3"), (1, "key 2", "key 3")]
