"""Texts to the tokens of a published language model, by the tokenizer.json that lies beside it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

IDS, ALIVE = 0, 1
"""Planes of a batch of tokens: their numbers, and 1 where one is no padding."""


@dataclass(frozen=True)
class TextSpec:
    """The input of an encoder of texts: the file of its tokenizer, tokens after which it cuts, number of padding."""

    file: str
    context: int
    padding: int


def write_tokens(out: NDArray[np.int32], text: str, spec: TextSpec) -> None:
    """Write one text's tokens into `out`, zeros of int32 [2, context]; see `IDS` and `ALIVE`."""
    numbers = _tokenizer(spec.file, spec.context).encode(text).ids
    out[IDS, : len(numbers)] = numbers
    out[IDS, len(numbers) :] = spec.padding
    out[ALIVE, : len(numbers)] = 1


def trimmed(tokens: NDArray[np.int32]) -> NDArray[np.int32]:
    """A batch [N, 2, context] without the places that all of its texts leave empty, but at least one: [N, 2, L]."""
    longest = int(tokens[:, ALIVE].sum(axis=1).max(initial=1))
    return tokens[:, :, :longest]


def tokens_of(texts: Sequence[str], spec: TextSpec) -> NDArray[np.int32]:
    """The batch of some texts: int32 [N, 2, L]."""
    batch = np.zeros((len(texts), 2, spec.context), np.int32)
    for row, text in zip(batch, texts, strict=True):
        write_tokens(row, text, spec)
    return trimmed(batch)


@lru_cache(maxsize=8)
def _tokenizer(file: str, context: int) -> "Tokenizer":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # threads of its own, beside those that decode
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(file)
    tokenizer.no_padding()  # some files pad every text to one length
    tokenizer.enable_truncation(context)
    return tokenizer
