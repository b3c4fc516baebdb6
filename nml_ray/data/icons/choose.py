"""Which icons are taken, and which split each belongs to: pure functions of names, drawn by keyed hash."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nml_ray.data.icons.vocabulary import content_words, has_brand, singular

CLASSES = 160
DOWNSTREAM_CLASSES = 40
PER_CLASS_AND_FAMILY = 2
TRAIN_SHARE, VALIDATION_SHARE = 0.50, 0.175
"""Shares of the downstream icons that are neither colour nor emoji; the rest is test."""

OUT_OF_DOMAIN = frozenset({"colour", "emoji"})


@dataclass(frozen=True)
class Candidate:
    """An icon that may be taken."""

    family: str
    name: str
    label: str
    extra: int
    """Words of the name beyond the class that say something: 0 for the plain thing."""

    @property
    def key(self) -> str:
        return f"{self.family}/{self.name}"


def keyed(tag: str, text: str) -> int:
    """A 64-bit number drawn for a text by BLAKE2b: the same on every machine, in any order."""
    return int.from_bytes(hashlib.blake2b(f"{tag}\0{text}".encode(), digest_size=8).digest(), "little")


def candidates(names: Mapping[str, Iterable[str]]) -> list[Candidate]:
    """Every icon with a class: names without a brand word and with a word left after the stop list.

    :param names: icon names by family.
    """
    spoken = [
        (family, name, found)
        for family, of_family in sorted(names.items())
        for name in sorted(set(of_family))
        if not has_brand(name) and (found := content_words(name))
    ]
    vocabulary = frozenset(found[0] for _, _, found in spoken)
    return [Candidate(family, name, singular(found[0], vocabulary), len(found) - 1) for family, name, found in spoken]


def most_spread(icons: Iterable[Candidate], count: int = CLASSES) -> list[str]:
    """The classes that occur in the most families (ties by name), sorted by name."""
    families: dict[str, set[str]] = defaultdict(set)
    for icon in icons:
        families[icon.label].add(icon.family)
    return sorted(sorted(families, key=lambda label: (-len(families[label]), label))[:count])


def take(icons: Iterable[Candidate], classes: Iterable[str]) -> list[Candidate]:
    """At most two icons of each class and family: the plainest names first, ties by keyed hash of the name.

    The hash leaves the family out, so that families that share drawings yield the same ones, which then drop out as
    duplicates.
    """
    wanted = set(classes)
    cells: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for icon in icons:
        if icon.label in wanted:
            cells[icon.label, icon.family].append(icon)
    taken = []
    for cell in cells.values():
        cell.sort(key=lambda icon: (icon.extra, keyed("icon", icon.name), icon.name))
        taken += cell[:PER_CLASS_AND_FAMILY]
    return sorted(taken, key=lambda icon: icon.key)


def downstream_classes(classes: Sequence[str]) -> list[str]:
    """The classes kept from pre-training, sorted by name."""
    return sorted(sorted(classes, key=lambda label: keyed("class", label))[:DOWNSTREAM_CLASSES])


def split_of_groups(sizes: Mapping[str, int]) -> dict[str, str]:
    """Split of each group of families: in the order of their keyed hash, train is filled first, then validation.

    :param sizes: downstream icons in domain by group; a group goes where its middle falls.
    """
    total = sum(sizes.values())
    before, splits = 0, {}
    for group in sorted(sizes, key=lambda group: (keyed("group", group), group)):
        middle = (before + sizes[group] / 2) / total
        before += sizes[group]
        if middle < TRAIN_SHARE:
            splits[group] = "train"
        else:
            splits[group] = "validation" if middle < TRAIN_SHARE + VALIDATION_SHARE else "test"
    return splits


def split_of(label: str, domain: str, group: str, downstream: frozenset[str], groups: Mapping[str, str]) -> str | None:
    """Split of one icon, None for the colour and emoji icons of the pre-training classes, which belong nowhere."""
    if label in downstream:
        return "ood" if domain in OUT_OF_DOMAIN else groups[group]
    return None if domain in OUT_OF_DOMAIN else "pretrain"
