"""Caption swap: which captions count as equal, and which samples exchange theirs."""

import unicodedata
from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.data.draw import Draws, digest_words

_CHUNK = 1 << 18


def normalised(caption: str) -> str:
    """The form in which captions are compared: NFC, case folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFC", caption).casefold().split())


def caption_digests(captions: Iterable[str | None]) -> Draws:
    """128-bit digests of the normalised captions, as uint64[N, 2]; the captions themselves are not kept.

    Raises:
        UserError: a sample has no caption.
    """

    def forms() -> Iterable[bytes]:
        for place, caption in enumerate(captions):
            if caption is None:
                raise UserError(
                    f"sample {place} has no caption",
                    where="noise.kind: caption_swap",
                    expected="a caption for every sample (.txt, or 'caption' in .json)",
                )
            yield normalised(caption).encode("utf-8", "surrogatepass")

    return digest_words(forms(), 16).reshape(-1, 2)


def caption_pairs(draws: Draws, digests: Draws) -> NDArray[np.int64]:
    """Samples that exchange captions, in the order in which the walk pairs them: int64[P, 2].

    Samples are walked by ascending draw. All waiting samples share one caption: a sample with another caption is
    paired with the earliest of them, one with the same caption waits too. Linear after the sort.
    """
    order = np.argsort(draws)
    first = np.empty(len(order) // 2, dtype=np.int64)
    second = np.empty_like(first)
    waiting: deque[int] = deque()
    held: tuple[int, int] | None = None
    pairs = 0
    for start in range(0, len(order), _CHUNK):
        places = order[start : start + _CHUNK]
        left, right = digests[places, 0].tolist(), digests[places, 1].tolist()
        for place, caption in zip(places.tolist(), zip(left, right, strict=True), strict=True):
            if waiting and caption != held:
                first[pairs], second[pairs] = waiting.popleft(), place
                pairs += 1
            else:
                waiting.append(place)
                held = caption
    return np.stack([first[:pairs], second[:pairs]], axis=1)
