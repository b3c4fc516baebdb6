"""Reads the shipped icons: real drawings of many design families, 32 x 32 grey, split by class and by family."""

import functools
import json
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nml_ray.config.errors import UserError, nearest_name
from nml_ray.data.icons.families import PERMITTED

DIGEST = "ba8eca4958326aadbe3c6841e29599e9ea58d653f8d28e8c6a186d1a4d91ffe1"
"""sha256 of the shipped file."""

SPLITS = ("pretrain", "train", "validation", "test", "ood")
"""Pre-training; downstream by groups of related families; colour and emoji styles of the downstream classes."""

LICENCES = PERMITTED
"""SPDX identifiers that occur; `NOTICE` says which family has which."""

LICENCE = " AND ".join(LICENCES)
"""SPDX expression of the file."""


def path() -> Path:
    """The shipped Parquet file."""
    return Path(str(files(__package__).joinpath("icons.parquet")))


def notice() -> str:
    """Authors, sources, licences and changes, in Markdown; it goes wherever the images go."""
    return files(__package__).joinpath("NOTICE.md").read_text(encoding="utf-8")


@functools.cache
def load() -> pa.Table:
    """All icons, sorted by split and key, read through a memory map on the first call.

    Columns: key ("<family>/<icon name>"), png (bytes), class, caption, family, domain (drawing style), split.
    """
    return pq.read_table(path(), memory_map=True)


def split(table: pa.Table, name: str) -> pa.Table:
    """The rows of one split, sorted by key.

    :raises UserError: no such split.
    """
    if name not in SPLITS:
        known = ", ".join(SPLITS)
        raise UserError(
            f"no split '{name}' of the icons", expected=f"one of {known}", nearest=nearest_name(name, SPLITS)
        )
    return table.filter(pc.equal(table["split"], name))


@functools.cache
def _classes(pretrain: bool) -> tuple[str, ...]:
    table = load()
    mask = pc.equal(table["split"], "pretrain")
    return tuple(sorted(pc.unique(table.filter(mask if pretrain else pc.invert(mask))["class"]).to_pylist()))


def classes(name: str) -> list[str]:
    """Class names of a split in label order (sorted): 120 for `pretrain`, the same 40 for every other split.

    :raises UserError: no such split.
    """
    if name not in SPLITS:
        split(load(), name)
    return list(_classes(name == "pretrain"))


def groups() -> dict[str, str]:
    """Group of related families of each family; no group has images in two of train, validation and test."""
    by_family: dict[str, str] = json.loads(load().schema.metadata[b"groups"])
    return by_family
