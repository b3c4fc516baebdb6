"""What a source holds, without the images: one row a sample, which says where the bytes lie."""

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nml_ray.config.errors import UserError, nearest_name
from nml_ray.data.class_names import numbers_for
from nml_ray.data.index import SCHEMA
from nml_ray.data.shards import check_key
from nml_ray.storage.link import Link

_FLUSH = 1 << 16
MAGIC = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"))

ROWS = pa.schema(
    [
        SCHEMA.field("key"),
        SCHEMA.field("label"),  # written as `.cls`; null where the members hold it, or there is none
        SCHEMA.field("caption"),  # written as `.txt`; likewise
        pa.field("file", pa.string(), nullable=False),  # holds the members
        pa.field("stamp", pa.int64(), nullable=False),  # another stamp means other bytes
        SCHEMA.field("members"),
        SCHEMA.field("image"),
    ]
)


@dataclass(frozen=True, eq=False)
class Listing:
    """The samples of a source.

    Attributes:
        rows: table of `ROWS`: about 200 bytes a sample.
        classes: class names in label order.
        image: extension of the image member where samples have several (`IndexOptions.image`).
        known_bad: keys of samples that are known to be undecodable.
        notes: what was left out, for the user.
        distinct: what makes keys unique, told where one comes twice.
        link: to the data set on an object store whose tars `file` names; None where it names local files.
    """

    rows: pa.Table
    classes: tuple[str, ...]
    image: str = ""
    known_bad: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    distinct: str = "a key column, or names that differ in more than extension and dots"
    link: Link | None = None

    @cached_property
    def _pieces(self) -> tuple[list[pa.RecordBatch], NDArray[np.int64]]:
        batches = self.rows.to_batches()
        return batches, np.cumsum([0, *(batch.num_rows for batch in batches)])

    def take(self, numbers: NDArray[np.int64]) -> pa.Table:
        """Rows by number, in the order of `numbers`; costs no more in a large listing than in a small one."""
        batches, starts = self._pieces
        ascending = np.argsort(numbers, kind="stable")
        wanted = numbers[ascending]
        piece = np.searchsorted(starts, wanted, side="right") - 1
        parts = [batches[i].take(pa.array(wanted[piece == i] - starts[i])) for i in np.unique(piece)]
        place = np.empty(len(numbers), np.int64)
        place[ascending] = np.arange(len(numbers))
        return pa.Table.from_batches(parts, self.rows.schema).combine_chunks().take(pa.array(place))


class RowBuilder:
    """Gathers rows into Arrow memory."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in ROWS.names}
        self._batches: list[pa.RecordBatch] = []

    def add(
        self,
        key: str,
        file: str,
        extension: str,
        *,
        size: int,
        offset: int = 0,
        stamp: int,
        label: int | None = None,
        caption: str | None = None,
        where: str = "",
    ) -> None:
        """Add a sample whose image is `size` bytes of a file from `offset` on.

        Raises:
            UserError: a key that cannot name a tar member, at `where`.
        """
        check_key(key, where or file)
        members = [{"extension": extension, "offset": offset, "size": size}]
        for name, value in zip(ROWS.names, (key, label, caption, file, stamp, members, 0), strict=True):
            self._columns[name].append(value)
        if len(self._columns["key"]) >= _FLUSH:
            self._flush()

    def table(self) -> pa.Table:
        """All rows, in the order in which they were added."""
        self._flush()
        return pa.Table.from_batches(self._batches, ROWS)

    def _flush(self) -> None:
        arrays = [pa.array(self._columns[name], ROWS.field(name).type) for name in ROWS.names]
        self._batches.append(pa.record_batch(arrays, schema=ROWS))
        self._columns = {name: [] for name in ROWS.names}


def key_of(path: str) -> str:
    """The key of a file: its path below the root without extension; further dots of its name become underscores.

    `cats/a.b.jpg` gives `cats/a_b`; dots of directories stay.
    """
    directory, slash, base = posixpath.normpath(path).rpartition("/")
    return directory + slash + (base.rpartition(".")[0] or base).replace(".", "_")


def image_format(data: bytes) -> str | None:
    """The extension that fits the first bytes of an image: jpg, png or webp; None for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((extension for magic, extension in MAGIC if data.startswith(magic)), None)


def extension_of(name: str) -> str:
    """The last extension of a file's name, in lower case."""
    return posixpath.basename(name).rpartition(".")[2].lower()


def class_numbers(
    labels: pa.ChunkedArray, classes: Sequence[str] | None, where: str
) -> tuple[pa.ChunkedArray, tuple[str, ...]]:
    """Labels as numbers, and the class names.

    Digits are a number; other words are class names: of `classes` where given, else all that occur, sorted.

    Args:
        labels: string[N], null where there is none.
        classes: class names in label order; None where unknown.
        where: names the labels in errors.

    Raises:
        UserError: an unknown class name, a number out of range, names and numbers mixed where classes are unknown.
    """
    words = [word for word in pc.unique(labels).to_pylist() if word is not None]
    digits = {word for word in words if word.isascii() and word.isdigit() and len(word) < 10}
    if classes is None:
        names = [word for word in words if word not in digits]
        if names and digits:
            raise UserError(
                f"labels '{names[0]}' and '{min(digits)}'", where=where, expected="names, or numbers, or --classes"
            )
        classes = sorted(names) if names else numbers_for(max(map(int, digits), default=None))
    number_of = {name: number for number, name in enumerate(classes)} | {word: int(word) for word in digits}
    for word in words:
        if not 0 <= number_of.get(word, -1) < len(classes):
            raise UserError(
                f"label '{word}'",
                where=where,
                expected=f"a class name, or 0 to {len(classes) - 1}",
                nearest=nearest_name(word, classes),
            )
    place = pc.index_in(labels, pa.array(words, pa.string()))
    numbers = pa.array([number_of[word] for word in words], pa.int64()).take(place.combine_chunks())
    return pa.chunked_array([numbers], pa.int64()), tuple(classes)


def readable_file(path: Path, where: str) -> tuple[int, int]:
    """Size and time of change of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror})", where=where, expected="an image") from None
    return found.st_size, found.st_mtime_ns
