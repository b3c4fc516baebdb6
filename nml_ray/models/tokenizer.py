"""Texts to token numbers: hashed words and parts of words for the small tower, open_clip's byte pairs for its own.

Neither needs a vocabulary that would have to be kept beside the weights: hashing has none, byte pairs are bundled.
Both remember the last texts: the arms of a run are given mostly the same captions, and the loader asks for them first.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nml_ray.data.captions import normalised
from nml_ray.data.draw import key_hashes

PARTS = (3, 4, 5)  # letters of a word's parts, as fastText has them
PADDING = 0

_WORD = re.compile(r"\w+")


class Tokenizer(Protocol):
    """Texts -> token numbers int64 [N, context], in [0, vocabulary), filled up with 0."""

    context: int
    vocabulary: int

    def __call__(self, texts: Sequence[str]) -> Tensor: ...


class HashedParts:
    """Words and their parts of 3 to 5 letters, each hashed into one of `buckets` (Bojanowski et al. 2017, section 3.2).

    A word that no caption held still shares parts with words that some did: 'unlock' with 'lock'.
    """

    def __init__(self, buckets: int, context: int) -> None:
        self.buckets, self.context, self.vocabulary = buckets, context, buckets + 1
        self._tokens = lru_cache(maxsize=1 << 16)(self._tokens_of)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        tokens = np.full((len(texts), self.context), PADDING, np.int64)
        for row, text in enumerate(texts):
            found = self._tokens(normalised(text))
            tokens[row, : len(found)] = found
        return torch.from_numpy(tokens)

    def _tokens_of(self, text: str) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        parts = [part for _, part in zip(range(self.context), parts_of(text), strict=False)]
        return (1 + key_hashes(parts) % np.uint64(self.buckets)).astype(np.int64)


def parts_of(text: str) -> Iterator[str]:
    """The words of a text, then the parts of each, `<` and `>` at its ends: 'pin' -> pin, <pi, pin, in>, <pin, ..."""
    words = _WORD.findall(text)
    yield from words
    for word in words:
        marked = f"<{word}>"
        for length in PARTS:
            yield from (marked[first : first + length] for first in range(len(marked) - length + 1))


class BytePairs:
    """open_clip's tokenizer: lower case, byte pairs of its bundled vocabulary, between marks of start and end."""

    def __init__(self, context: int) -> None:
        from open_clip import SimpleTokenizer

        self._tokenizer = SimpleTokenizer(context_length=context)
        self.context, self.vocabulary = context, self._tokenizer.vocab_size
        self._tokens = lru_cache(maxsize=1 << 17)(self._tokens_of)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        tokens = np.zeros((len(texts), self.context), np.int64)
        for row, text in enumerate(texts):
            tokens[row] = self._tokens(text)
        return torch.from_numpy(tokens)

    def _tokens_of(self, text: str) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
        tokens: Tensor = self._tokenizer([text])
        return tokens[0].int().numpy()
