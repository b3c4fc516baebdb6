"""Checks and digests over the rows of all indices of a data set."""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.data.draw import Draws, hash_of, key_hashes

_SLICE = 1 << 20


def rows_digest(rows: pa.Table, order: NDArray[np.integer] | None = None) -> str:
    """sha256 (hex) over (key, content, label, caption) of all rows, in the given order or their own.

    Each column is hashed as the int64 lengths of its values and their bytes (labels as int64; -1 is null), so equal
    digests mean equal rows. Holds a million rows at a time.
    """
    lengths = {name: hashlib.sha256() for name in ("key", "caption")}
    values = {name: hashlib.sha256() for name in ("key", "content", "label", "caption")}
    for start in range(0, rows.num_rows, _SLICE):
        part = rows.slice(start, _SLICE) if order is None else rows.take(pa.array(order[start : start + _SLICE]))
        for name in ("key", "caption"):
            column = part[name].cast(pa.binary())
            lengths[name].update(pc.fill_null(pc.binary_length(column), -1).to_numpy().astype("<i8").tobytes())
            values[name].update(values_buffer(pc.fill_null(column, b"")))
        values["content"].update(values_buffer(part["content"]))
        values["label"].update(pc.fill_null(part["label"], -1).to_numpy().astype("<i8").tobytes())
    parts = [lengths["key"], values["key"], values["content"], values["label"], lengths["caption"], values["caption"]]
    return hashlib.sha256(b"".join(part.digest() for part in parts)).hexdigest()


def same_content(rows: pa.Table, hashes: Draws, contents: Mapping[str, bytes]) -> list[str]:
    """Those of some keys whose images have the given content digests. `hashes`: of the rows' keys, uint64[N]."""
    at = np.flatnonzero(np.isin(hashes, key_hashes(contents)))
    found = rows.select(["key", "content"]).take(pa.array(at, pa.int64())).to_pylist()
    return [row["key"] for row in found if contents.get(row["key"]) == row["content"]]


def values_buffer(column: pa.ChunkedArray) -> memoryview:
    """The bytes of all values of a string or binary column without nulls, end to end."""
    values = column.combine_chunks()
    if not len(values):
        return memoryview(b"")
    data = memoryview(values.buffers()[-1] or b"")
    if pa.types.is_fixed_size_binary(values.type):
        width = values.type.byte_width
        return data[values.offset * width : (values.offset + len(values)) * width]
    bounds = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    return data[bounds[0] : bounds[-1]]


def key_order(rows: pa.Table) -> NDArray[np.unsignedinteger]:
    """Places of the rows sorted by key (UTF-8 bytes): uint32[N]."""
    order: NDArray[np.unsignedinteger] = pc.sort_indices(rows["key"]).to_numpy().astype(np.uint32)
    return order


def refuse_duplicates(
    key_hash: Draws, keys: pa.ChunkedArray, shard_of: Sequence[str], bounds: NDArray[np.int64]
) -> None:
    """Refuses keys that come twice, and different keys of one hash.

    Args:
        key_hash: uint64[N].
        keys: the N keys.
        shard_of: names of the shards.
        bounds: first row of each shard, and N: int64[shards + 1].

    Raises:
        UserError: naming the key and both shards.
    """
    ordered = np.sort(key_hash)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return
    first, second = np.flatnonzero(key_hash == twice[0])[:2].tolist()
    places = [shard_of[int(np.searchsorted(bounds, row, side="right")) - 1] for row in (first, second)]
    one, other = keys[first].as_py(), keys[second].as_py()
    if one == other:
        raise UserError(
            f"key '{one}' comes twice, in {places[0]} and in {places[1]}",
            expected="keys that are unique in the data set, or --key-prefix shard",
        )
    raise UserError(
        f"keys '{one}' in {places[0]} and '{other}' in {places[1]} have the same 64-bit hash",
        expected="another name for one of them",
    )


def keys_equal_after_nfc(keys: pa.ChunkedArray, key_hash: Draws) -> list[str]:
    """Keys that another key equals after Unicode normalisation (NFC): they may be one file, named on two systems."""
    suspects: dict[str, list[str]] = {}
    for chunk in keys.chunks:
        wide = chunk.filter(pc.invert(pc.string_is_ascii(chunk)))
        for key in wide.to_pylist():
            if (form := unicodedata.normalize("NFC", key)) != key:
                suspects.setdefault(form, []).append(key)
    if not suspects:
        return []
    known = np.isin(np.array([hash_of(form) for form in suspects], dtype=np.uint64), key_hash)
    return [keys[0] for keys, exists in zip(suspects.values(), known, strict=True) if exists or len(keys) > 1]
