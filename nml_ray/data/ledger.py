"""The ledger on disk: which sample carried which label, as evidence. Never read back as input."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nml_ray.data.aside import replacing
from nml_ray.data.noise import NoiseLedger, realised_matrix
from nml_ray.data.rows import key_order, values_buffer

_SLICE = 1 << 20  # rows digested at a time
MATRIX_LIMIT = 64  # classes up to which the summary holds the realised matrix


def ledger_table(keys: pa.ChunkedArray, ledger: NoiseLedger) -> pa.Table:
    """(key, clean, given, selected, draw) in the order of the data set; for captions, clean and given are keys.

    Args:
        keys: the N keys of the good samples, in the ledger's order.
        ledger: the noise.
    """
    swapped = ledger.kind == "caption_swap"
    return pa.table(
        {
            "key": keys,
            "clean": keys if swapped else pa.array(ledger.clean, pa.int64()),
            "given": keys.take(pa.array(ledger.given)) if swapped else pa.array(ledger.given, pa.int64()),
            "selected": pa.array(ledger.selected),
            "draw": pa.array(ledger.draw),
        }
    )


def ledger_digest(table: pa.Table) -> str:
    """sha256 (hex) over the rows sorted by key: the same for every sharding and every Parquet writer.

    Column after column: keys as UTF-8, each ended by a zero byte, numbers little-endian, booleans as bytes.
    """
    digest, order = hashlib.sha256(), key_order(table)
    for name in table.schema.names:
        for start in range(0, table.num_rows, _SLICE):
            values = table[name].take(pa.array(order[start : start + _SLICE]))
            if pa.types.is_string(values.type):
                ended = pc.binary_join_element_wise(values, "", "\0")
                digest.update(values_buffer(ended))
            else:
                numbers = values.to_numpy()
                digest.update(
                    numbers.astype(np.uint8 if numbers.dtype == bool else f"<{numbers.dtype.str[1:]}").tobytes()
                )
    return digest.hexdigest()


def write_ledger(path: Path, keys: pa.ChunkedArray, ledger: NoiseLedger, classes: int = 0) -> dict[str, Any]:
    """Write ledger.parquet, atomically.

    Args:
        path: of the Parquet file.
        keys: as for `ledger_table`.
        ledger: the noise.
        classes: K, to report the realised matrix of `transition` and `file` up to `MATRIX_LIMIT` classes.

    Returns:
        The summary: kind, ratio, samples, selected, changed, realised, digest, warnings, perhaps matrix (counts).
    """
    table = ledger_table(keys, ledger)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    summary: dict[str, Any] = {
        "kind": ledger.kind,
        "ratio": ledger.asked,
        "samples": len(ledger.clean),
        "selected": int(np.count_nonzero(ledger.selected)),
        "changed": ledger.changed,
        "realised": ledger.realised,
        "digest": ledger_digest(table),
        "warnings": list(ledger.warnings),
    }
    if ledger.kind in ("transition", "file") and 0 < classes <= MATRIX_LIMIT:
        summary["matrix"] = realised_matrix(ledger.clean, ledger.given, classes).tolist()
    return summary


def read_ledger(path: Path) -> pa.Table:
    """The rows of ledger.parquet."""
    return pq.read_table(path)
