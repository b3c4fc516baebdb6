"""The ledger's file and digest."""

import json

import numpy as np
import pyarrow as pa

from nml_ray.data.config import NoiseSettings
from nml_ray.data.draw import key_hashes
from nml_ray.data.ledger import ledger_digest, ledger_table, read_ledger, write_ledger
from nml_ray.data.noise import make_ledger

KEYS = [f"é{i}" for i in range(100)]


def ledger_of(order=range(100), **noise):
    keys = [KEYS[i] for i in order]
    labels = np.array([i % 4 for i in order], dtype=np.int64)
    (arm,) = NoiseSettings(**noise).arms()
    captions = [f"caption {i}" for i in order]
    return pa.chunked_array([keys]), make_ledger(arm, key_hashes(keys), labels, 4, captions)


def test_file_and_summary(tmp_path):
    keys, ledger = ledger_of(kind="symmetric", ratios=["0.3"])
    summary = write_ledger(tmp_path / "ledger.parquet", keys, ledger, classes=4)
    table = read_ledger(tmp_path / "ledger.parquet")
    assert table.schema.names == ["key", "clean", "given", "selected", "draw"]
    assert table.schema.field("draw").type == pa.uint64() and table.schema.field("given").type == pa.int64()
    assert table["key"].to_pylist() == KEYS and table["given"].to_pylist() == ledger.given.tolist()
    assert summary == json.loads(json.dumps(summary)) and summary["digest"] == ledger_digest(table)
    facts = {"kind": "symmetric", "ratio": "0.3", "samples": 100, "selected": 30, "changed": 30, "realised": 0.3}
    assert facts.items() <= summary.items() and "matrix" not in summary


def test_captions_are_named_by_key(tmp_path):
    keys, ledger = ledger_of(kind="caption_swap", ratios=["0.5"])
    table = ledger_table(keys, ledger)
    assert table["clean"].to_pylist() == KEYS
    assert table["given"].to_pylist() == [KEYS[i] for i in ledger.given]
    assert write_ledger(tmp_path / "l.parquet", keys, ledger)["changed"] == 50


def test_the_digest_ignores_the_sharding():
    digests = {
        (kind, name): ledger_digest(ledger_table(*ledger_of(order, kind=kind, ratios=["0.5"])))
        for kind in ("symmetric", "caption_swap")
        for name, order in (("forward", range(100)), ("backward", range(99, -1, -1)))
    }
    assert digests["symmetric", "forward"] == digests["symmetric", "backward"]
    assert digests["caption_swap", "forward"] == digests["caption_swap", "backward"]
    assert len(set(digests.values())) == 2


def test_transition_reports_the_realised_matrix(tmp_path):
    keys, ledger = ledger_of(kind="transition", matrix=np.full((4, 4), 0.25).tolist())
    summary = write_ledger(tmp_path / "l.parquet", keys, ledger, classes=4)
    assert np.sum(summary["matrix"]) == 100 and summary["realised"] == ledger.realised and summary["ratio"] is None
