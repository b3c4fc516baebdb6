"""The ledger artifact against the noise settings: ledger.parquet must say what they give, row by row."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from nml_ray.data.dataset import Dataset
from nml_ray.data.draw import key_hashes
from nml_ray.data.noise import NoiseLedger
from nml_ray.pretrain.audit_records import KeyLookup
from nml_ray.pretrain.findings import Finding, Findings

BATCH = 1 << 16  # rows read at a time
COLUMNS = ("clean", "given", "selected", "draw")


def audit_ledger(path: Path, ledger: NoiseLedger, dataset: Dataset, findings: Findings) -> None:
    """Compare every row of ledger.parquet with the noise made anew; what differs goes to `findings`."""
    try:
        for finding in _differences(path, ledger, dataset):
            findings.add(finding.kind, finding.text, key=finding.key)
    except (OSError, pa.ArrowException, KeyError) as error:
        findings.add("file", f"{path} cannot be read ({' '.join(str(error).split())[:200]})")


def _differences(path: Path, ledger: NoiseLedger, dataset: Dataset) -> Iterator[Finding]:
    good = dataset.good
    find = KeyLookup(dataset.key_hash if len(good) == len(dataset) else dataset.key_hash[good])
    seen, read = np.zeros(len(good), np.uint32), 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH, columns=["key", *COLUMNS]):
            keys = batch["key"].to_pylist()
            in_order = np.minimum(np.arange(read, read + len(keys)), len(good) - 1)
            rows, read = find.near(key_hashes(keys), in_order), read + len(keys)
            for row in np.flatnonzero(rows < 0).tolist():
                yield Finding("ledger", f"{path.name} has this key, the data does not", key=keys[row])
            known = np.flatnonzero(rows >= 0)
            np.add.at(seen, rows[known], 1)
            for name in COLUMNS:
                said, expected = _column(batch, name, find)[known], _expected(ledger, name)[rows[known]]
                for row in np.flatnonzero(said != expected).tolist():
                    text = f"{path.name} says {name} {said[row]}, the noise settings give {expected[row]}"
                    yield Finding("ledger", text, key=keys[known[row]])
    for times, what in ((seen == 0, "has no row of this key"), (seen > 1, "has this key more than once")):
        for row in np.flatnonzero(times).tolist():
            yield Finding("ledger", f"{path.name} {what}", key=dataset.key(int(dataset.good[row])))


def _column(batch: pa.RecordBatch, name: str, find: KeyLookup) -> NDArray[Any]:
    """A column as the noise has it: for captions, keys become sample numbers."""
    if pa.types.is_string(batch[name].type):
        return find(key_hashes(batch[name].to_pylist()))
    return batch[name].to_numpy(zero_copy_only=False)


def _expected(ledger: NoiseLedger, name: str) -> NDArray[Any]:
    values: NDArray[Any] = getattr(ledger, name)
    return values
