"""A ledger that was tampered with is found and named."""

import pyarrow as pa
from pyarrow import parquet

from tests.pretrain.audit.audited import audit, good_key, only


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
