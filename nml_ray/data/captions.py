"""Caption swap: which captions count as equal, and which samples exchange theirs."""

import unicodedata
from array import array
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


def caption_pairs(draws: Draws, digests: Draws, most: int | None = None) -> NDArray[np.uint32]:
    """Samples that exchange captions, in the order in which the walk pairs them: uint32[P, 2].

    Samples are walked by ascending draw. All waiting samples share one caption: a sample with another caption is
    paired with the earliest of them, one with the same caption waits too. Linear after the sort.

    Args:
        draws: uint64[N].
        digests: of the captions, uint64[N, 2].
        most: pairs after which the walk ends; all where None.
    """
    order = np.argsort(draws).astype(np.uint32)
    wanted = len(order) // 2 if most is None else min(most, len(order) // 2)
    pairs = np.empty((wanted, 2), dtype=np.uint32)
    waiting, earliest = array("I"), 0  # those before `earliest` are paired
    held: tuple[int, int] | None = None
    found = 0
    for start in range(0, len(order), _CHUNK):
        first, second = array("I"), array("I")
        places = order[start : start + _CHUNK]
        left, right = digests[places, 0].tolist(), digests[places, 1].tolist()
        for place, caption in zip(places.tolist(), zip(left, right, strict=True), strict=True):
            if earliest < len(waiting) and caption != held:
                first.append(waiting[earliest])
                second.append(place)
                earliest += 1
            else:
                waiting.append(place)
                held = caption
        del waiting[:earliest]
        earliest = 0
        taken = min(len(first), wanted - found)
        pairs[found : found + taken] = np.stack([first, second], axis=1)[:taken]
        found += taken
        if found == wanted:
            break
    return pairs[:found]
