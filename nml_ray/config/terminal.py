"""What reaches a terminal of texts that others wrote (records, servers, jobs): no control characters that could set its
title, answer in the user's name or hide what was said."""

import re
from collections.abc import Iterable, Iterator

_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)")  # colours, moves, titles
_SHOWN = re.compile(r"\x1b\[[0-9;]{0,16}[A-GJKm]|[\n\r\t]|[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_BEGUN = re.compile(r"\x1b(?:\[[0-9;]{0,16})?\Z")


def plain(text: str) -> str:
    """A message without control characters, in as many lines as it has."""
    return "".join(one for one in _SEQUENCE.sub("", text) if one.isprintable() or one == "\n")


def one_line(text: str) -> str:
    """`plain`, in one line."""
    return " ".join(plain(text).split("\n"))


def harmless(pieces: Iterable[str]) -> Iterator[str]:
    """Output as it comes, with its colours and bars of progress, without other control characters."""
    rest = ""
    for piece in pieces:
        text = rest + piece
        begun = _BEGUN.search(text)
        rest = begun[0] if begun else ""
        yield "".join(_SHOWN.findall(text[: len(text) - len(rest)]))
