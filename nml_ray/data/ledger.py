"""The ledger on disk: which sample carried which label, as evidence. Never read back as input."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nml_ray.data.aside import replacing
from nml_ray.data.noise import NoiseLedger, realised_matrix
from nml_ray.data.rows import key_order, values_buffer

Places = NDArray[np.unsignedinteger]

COLUMNS = ("key", "clean", "given", "selected", "draw")
SLICE = 1 << 20  # rows held at a time
MATRIX_LIMIT = 64  # classes up to which the summary holds the realised matrix


def ledger_table(keys: pa.ChunkedArray, ledger: NoiseLedger) -> pa.Table:
    """(key, clean, given, selected, draw) in the order of the data set; for captions, clean and given are keys.

    Args:
        keys: the N keys of the good samples, in the ledger's order.
        ledger: the noise.
    """
    return _rows(keys, ledger, np.arange(len(keys), dtype=np.uint32))


def _rows(keys: pa.ChunkedArray, ledger: NoiseLedger, places: Places) -> pa.Table:
    return pa.table({name: _column(keys, ledger, name, places) for name in COLUMNS})


def _column(keys: pa.ChunkedArray, ledger: NoiseLedger, name: str, places: Places) -> pa.Array:
    """A column of the ledger at some places."""
    if name in ("selected", "draw"):
        return pa.array(getattr(ledger, name)[places])
    if name == "key" or (name == "clean" and ledger.kind == "caption_swap"):
        return keys.take(pa.array(places))
    if ledger.kind == "caption_swap":
        return keys.take(pa.array(ledger.given[places]))
    return pa.array(getattr(ledger, name)[places], pa.int64())


def ledger_digest(table: pa.Table) -> str:
    """sha256 (hex) over the rows sorted by key: the same for every sharding and every Parquet writer.

    Column after column: keys as UTF-8, each ended by a zero byte, numbers little-endian, booleans as bytes.
    """
    return _digest(key_order(table), lambda name, places: table[name].take(pa.array(places)))


def _digest(order: Places, column: Callable[[str, Places], pa.Array]) -> str:
    digest = hashlib.sha256()
    for name in COLUMNS:
        for start in range(0, len(order), SLICE):
            values = column(name, order[start : start + SLICE])
            if pa.types.is_string(values.type):
                digest.update(values_buffer(pc.binary_join_element_wise(values, "", "\0")))
            else:
                numbers = values.to_numpy(zero_copy_only=False)
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
    places = np.arange(len(keys), dtype=np.uint32)
    schema = _rows(keys, ledger, places[:0]).schema
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for start in range(0, len(keys), SLICE):
            writer.write_table(_rows(keys, ledger, places[start : start + SLICE]))
    summary: dict[str, Any] = {
        "kind": ledger.kind,
        "ratio": ledger.asked,
        "samples": len(ledger.clean),
        "selected": int(np.count_nonzero(ledger.selected)),
        "changed": ledger.changed,
        "realised": ledger.realised,
        "digest": _digest(key_order(pa.table({"key": keys})), lambda name, places: _column(keys, ledger, name, places)),
        "warnings": list(ledger.warnings),
    }
    if ledger.kind in ("transition", "file") and 0 < classes <= MATRIX_LIMIT:
        summary["matrix"] = realised_matrix(ledger.clean, ledger.given, classes).tolist()
    return summary


def read_ledger(path: Path) -> pa.Table:
    """The rows of ledger.parquet."""
    return pq.read_table(path)
