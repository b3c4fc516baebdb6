"""Which icon families may be used, and which belong together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

PERMITTED = ("MIT", "Apache-2.0", "ISC", "CC0-1.0", "CC-BY-4.0")
"""SPDX identifiers of the licences under which families are taken."""

EXCLUDED_CATEGORIES = frozenset({"Logos"})

EXCLUDED_TAG = "Contains Animations"
"""Families that draw themselves in motion: the first frame is not what the name says."""

_MARKS_OF_SOFTWARE = ["vscode-icons", "material-icon-theme", "file-icons", "devicon", "devicon-plain", "catppuccin"]
_MARKS_OF_CLOUDS = ["skill-icons", "gcp", "k8s", "unjs"]
_FLAGS = ["circle-flags", "flag", "flagpack", "cif"]
_CRYPTO = ["bitcoin-icons", "token", "token-branded", "cryptocurrency", "cryptocurrency-color"]
_UNCLEAR_TERMS = ["emojione", "emojione-monotone", "emojione-v1", "ginetex"]  # ginetex: protected care symbols
EXCLUDED = frozenset(_MARKS_OF_SOFTWARE + _MARKS_OF_CLOUDS + _FLAGS + _CRYPTO + _UNCLEAR_TERMS)
"""Families left out by name."""

RELATED: tuple[tuple[str, ...], ...] = (
    ("material-symbols", "material-symbols-light", "ic", "mdi", "memory"),
    ("fa7-solid", "la"),
    ("feather", "lucide", "lucide-lab"),
    ("ion", "famicons"),
    ("heroicons", "sidekickicons"),
    ("mi", "mono-icons"),
    ("maki", "temaki", "pinhead"),
)
"""Families known to descend from one another, beside what author, name and likeness show."""


@dataclass(frozen=True)
class Family:
    """One icon family as the package declares it."""

    prefix: str
    title: str
    author: str
    url: str
    version: str
    spdx: str
    licence_url: str
    coloured: bool
    emoji: bool


def permitted(collections: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Prefixes of the families that may be used, sorted.

    :param collections: the package's `collections.json`.
    """
    return sorted(
        prefix
        for prefix, info in collections.items()
        if info["license"].get("spdx") in PERMITTED
        and info.get("category") not in EXCLUDED_CATEGORIES
        and EXCLUDED_TAG not in (info.get("tags") or ())
        and prefix not in EXCLUDED
        and "brands" not in prefix
    )


def family_of(prefix: str, info: Mapping[str, Any]) -> Family:
    """The facts of one family from its entry in `collections.json`."""
    return Family(
        prefix=prefix,
        title=info["name"],
        author=info["author"]["name"],
        url=info["author"].get("url", ""),
        version=info.get("version", ""),
        spdx=info["license"]["spdx"],
        licence_url=info["license"].get("url", ""),
        coloured=bool(info.get("palette")) or info.get("category") == "UI Multicolor",
        emoji=info.get("category") == "Emoji" or "emoji" in prefix,
    )


def declared_links(families: Iterable[Family]) -> list[tuple[str, str]]:
    """Pairs of families of one author, of one first word of their prefix, or listed in `RELATED`."""
    known: dict[str, str] = {}
    links: list[tuple[str, str]] = []
    for family in families:
        marks = (f"author {family.author.lower()}", f"name {family.prefix.split('-')[0]}")
        links += [(known.setdefault(mark, family.prefix), family.prefix) for mark in marks]
    present = {prefix for pair in links for prefix in pair}
    for related in RELATED:
        members = [prefix for prefix in related if prefix in present]
        links += pairwise(members)
    return [(a, b) for a, b in links if a != b]


def groups(prefixes: Iterable[str], links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Group of each family: the connected components of the links, named after their first member by name."""
    root = {prefix: prefix for prefix in prefixes}

    def find(prefix: str) -> str:
        while root[prefix] != prefix:
            prefix = root[prefix]
        return prefix

    for a, b in links:
        low, high = sorted((find(a), find(b)))
        root[high] = low
    return {prefix: find(prefix) for prefix in root}
