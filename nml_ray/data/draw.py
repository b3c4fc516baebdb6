"""Keyed draws: every random number is a hash of (tag, seed, sample key, fields), in no order and with no state.

`key_hash` is the little-endian uint64 of an 8-byte BLAKE2b over the key; `mix` is one SplitMix64 step (Steele, Lea and
Flood 2014). Both are bijective where it matters: samples with different hashes never draw the same number.
"""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

Draws = NDArray[np.uint64]

_PART = 1 << 16  # numbers mixed at a time: what is between stays in the processor's cache
_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def hash_of(text: str) -> int:
    """The 64-bit hash of one key or tag."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def key_hashes(keys: Iterable[str]) -> Draws:
    """The 64-bit hashes of many keys, in their order: uint64[N]."""
    return digest_words((key.encode() for key in keys), 8)


def digest_words(texts: Iterable[bytes], size: int) -> Draws:
    """BLAKE2b digests of `size` bytes (a multiple of 8), as little-endian words: uint64[N * size / 8]."""
    blake2b = hashlib.blake2b
    digests = (blake2b(text, digest_size=size).digest() for text in texts)
    pieces = []
    while piece := b"".join(islice(digests, 1 << 16)):
        pieces.append(np.frombuffer(piece, dtype="<u8").astype(np.uint64))
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.uint64)


def _mix_number(x: int) -> int:
    z = (x + _GAMMA) & _MASK
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return z ^ (z >> 31)


def mix(x: Draws) -> Draws:
    """One SplitMix64 step of each element, modulo 2^64: a bijection of uint64."""
    z = np.atleast_1d(x) + np.uint64(_GAMMA)
    z ^= z >> np.uint64(30)
    z *= np.uint64(_FIRST)
    z ^= z >> np.uint64(27)
    z *= np.uint64(_SECOND)
    z ^= z >> np.uint64(31)
    return z.reshape(np.shape(x))


def draw(
    tag: str, seed: int, key_hash: Draws, *fields: "int | NDArray[np.unsignedinteger | np.signedinteger]"
) -> Draws:
    """One number per sample, uniform over 0 .. 2^64-1.

    Args:
        tag: what the number is for; different tags are independent.
        seed: 0 .. 2^64-1.
        key_hash: uint64[N], from `key_hashes` or the index.
        fields: epoch, repeat, step ...: a non-negative number for all samples, or an array of one per sample.

    Returns:
        uint64[N].
    """
    if len(key_hash) <= _PART:
        return _draw(tag, seed, key_hash, fields)
    drawn = np.empty(len(key_hash), dtype=np.uint64)
    for start in range(0, len(key_hash), _PART):
        part = slice(start, start + _PART)
        own = tuple(field[part] if isinstance(field, np.ndarray) else field for field in fields)
        drawn[part] = _draw(tag, seed, key_hash[part], own)
    return drawn


def _draw(tag: str, seed: int, key_hash: Draws, fields: Sequence[Any]) -> Draws:
    state: int | Draws = _mix_number(seed ^ hash_of(tag))
    for field in fields:
        if isinstance(field, np.ndarray):
            start = np.uint64(state) if isinstance(state, int) else state
            state = mix(start ^ field.astype(np.uint64))
        else:
            state = _mix_number(state ^ int(field)) if isinstance(state, int) else mix(state ^ np.uint64(field))
    return mix(key_hash ^ (np.uint64(state) if isinstance(state, int) else state))


def draw_one(tag: str, seed: int, key: str, *fields: int) -> int:
    """The draw of a single key, as a Python number."""
    return int(draw(tag, seed, key_hashes([key]), *fields)[0])


def uniform(draws: Draws) -> NDArray[np.float64]:
    """Draws as float64 in [0, 1): the upper 53 bits."""
    return (draws >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniform_one(tag: str, seed: int, key: str, *fields: int) -> float:
    """The draw of a single key as a number in [0, 1)."""
    return (draw_one(tag, seed, key, *fields) >> 11) * 2.0**-53
