"""CSV and Parquet files of image paths, image bytes or texts, with labels and captions; lists of paths and labels."""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from nml_ray.config.errors import UserError, nearest_name
from nml_ray.data.index import IMAGE_EXTENSIONS, TEXT
from nml_ray.data.sources.listing import (
    Listing,
    RowBuilder,
    class_numbers,
    extension_of,
    image_format,
    key_of,
    readable_file,
)
from nml_ray.data.sources.spool import Spool

USUAL: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "path", "file", "filename", "file_name", "filepath", "image_path", "img", "bytes", "jpg"),
    "label": ("label", "class", "cls", "target"),
    "caption": ("caption", "text", "txt"),
    "key": ("key",),
}
BATCH = 256  # rows of image bytes in memory
LISTED = ("path", "label")  # the columns of a .txt file
NO_LABEL = "-1"  # what published tables write where there is none


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns; "" takes the first usual name that the table has (see `USUAL`).

    `texts`: the samples are texts instead of images, of one column or of two that belong together.
    """

    image: str = ""
    label: str = ""
    caption: str = ""
    key: str = ""
    texts: tuple[str, ...] = ()

    def of(self, names: Sequence[str], where: str) -> dict[str, str]:
        """Column by use; uses without a column are left out.

        Raises:
            UserError: a column that the table does not have, no column of images.
        """
        found: dict[str, str] = {f"text{place}": name for place, name in enumerate(self.texts)}
        for name in self.texts:
            _refuse_absent(name, names, where)
        for use, usual in USUAL.items():
            if self.texts and use in ("image", "caption"):
                continue
            asked: str = getattr(self, use)
            if asked:
                _refuse_absent(asked, names, where)
            column = asked or next((name for name in usual if name in names), "")
            if column:
                found[use] = column
        if "image" not in found and not self.texts:
            raise UserError(
                f"which column holds the images? It has {', '.join(names)}",
                where=where,
                expected=f"--image-column, or a column named {', '.join(USUAL['image'])}",
            )
        return found


def _refuse_absent(column: str, names: Sequence[str], where: str) -> None:
    if column not in names:
        raise UserError(
            f"no column '{column}'", where=where, expected=", ".join(names), nearest=nearest_name(column, names)
        )


def table_listing(
    files: Sequence[Path],
    spool: Spool,
    columns: Columns = Columns(),
    root: Path | None = None,
    classes: Sequence[str] | None = None,
) -> Listing:
    """The samples of CSV, TSV or Parquet files, or of lists (.txt) with a path, a blank and a label in each line.

    A column of text holds paths, taken from `root`; a binary column, or a struct with `bytes`, holds encoded images,
    which are copied to `spool`. Keys: the key column (dots of the last part become underscores), else the path
    (`key_of`), else `<file's stem>/<row>`. Texts are copied to `spool` as they are, two of them with a line break
    between. Rows with the label -1, which stands for none, are left out and noted.

    Args:
        files: of one kind and with the same columns.
        spool: takes images that come as bytes.
        columns: their names.
        root: of paths; default: the directory of the file.
        classes: class names in label order; default: those that a Parquet file of Hugging Face's states, else all
            that occur, sorted.

    Raises:
        UserError: file and row of what is wrong.
    """
    builder, labels, unlabelled = RowBuilder(), [], 0
    for file in files:
        base = root or file.parent
        for number, row in _rows(file, columns):
            where = f"{file}, row {number}"
            label = None if row.get("label") is None else str(row["label"]).strip()
            if label == NO_LABEL:
                unlabelled += 1
                continue
            labels.append(label)
            if columns.texts:
                _add_text(builder, spool, row, f"{file.stem.replace('.', '_')}/{number:09d}", where)
            elif isinstance(row["image"], bytes):
                _add_bytes(builder, spool, row, f"{file.stem.replace('.', '_')}/{number:09d}", where)
            else:
                _add_path(builder, row, base, where)
    spool.flush()
    rows = builder.table()
    if not rows.num_rows:
        raise UserError("no rows", where=str(files[0]), expected="at least one sample")
    words = pa.chunked_array([pa.array(labels, pa.string())])
    if classes is None:
        classes = _stated_classes(files[0], columns)
    numbers, names = class_numbers(words, classes, f"{files[0]}, column of labels")
    notes = (f"rows without a label ({NO_LABEL}), left out: {unlabelled}",) if unlabelled else ()
    whole = rows.set_column(1, rows.schema.field("label"), numbers)
    return Listing(whole, names, TEXT if columns.texts else "", notes=notes)


def _rows(file: Path, columns: Columns) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number from 1 (without a header), and values by use."""
    reader = {".parquet": _parquet, ".txt": _list}.get(file.suffix, _csv)
    number = 0
    try:
        for found, batch in reader(file, columns):
            values = {use: batch.column(column) for use, column in found.items()}
            for row in zip(*(_plain(array) for array in values.values()), strict=True):
                number += 1
                yield number, dict(zip(values, row, strict=True))
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        place = f"{file}, after row {number}" if number else str(file)
        kind = file.suffix.removeprefix(".").upper()
        raise UserError(f"cannot be read ({error})", where=place, expected=f"a {kind} file") from None


def _plain(array: pa.Array) -> list[Any]:
    """Values of a column; a struct of bytes and path becomes its bytes."""
    if pa.types.is_struct(array.type) and array.type.get_field_index("bytes") >= 0:
        array = array.field("bytes")
    return array.to_pylist()


def _parquet(file: Path, columns: Columns) -> Iterator[tuple[dict[str, str], pa.RecordBatch]]:
    with pq.ParquetFile(file, pre_buffer=False) as opened:
        found = columns.of(opened.schema_arrow.names, str(file))
        for batch in opened.iter_batches(BATCH, columns=list(dict.fromkeys(found.values()))):
            yield found, batch


def _csv(file: Path, columns: Columns) -> Iterator[tuple[dict[str, str], pa.RecordBatch]]:
    delimiter = "\t" if file.suffix == ".tsv" else ","
    with open(file, encoding="utf-8-sig", newline="") as text:
        names = next(csv.reader(text, delimiter=delimiter), [])
    found = columns.of(names, str(file))
    options = pacsv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        include_columns=list(dict.fromkeys(found.values())),
        strings_can_be_null=True,
        null_values=[""],
    )
    parse = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with pacsv.open_csv(file, parse_options=parse, convert_options=options) as reader:
        for batch in reader:
            yield found, batch


def _list(file: Path, columns: Columns) -> Iterator[tuple[dict[str, str], pa.RecordBatch]]:
    """Lines of a path, a blank and a label."""
    found = columns.of(LISTED, str(file))
    with open(file, encoding="utf-8-sig") as text:
        pairs = [line.strip().rpartition(" ") for line in text if line.strip()]
    if wrong := next((number for number, pair in enumerate(pairs, 1) if not pair[0]), 0):
        raise UserError("no label", where=f"{file}, row {wrong}", expected="a path, a blank and a label")
    values = {"path": [pair[0].strip() for pair in pairs], "label": [pair[2] for pair in pairs]}
    yield found, pa.record_batch({name: pa.array(values[name], pa.string()) for name in LISTED})


def _add_text(builder: RowBuilder, spool: Spool, row: Mapping[str, Any], numbered: str, where: str) -> None:
    parts = [row[name] for name in ("text0", "text1") if name in row]
    for part in parts:
        if not isinstance(part, str):
            raise UserError(f"text {part!r}", where=where, expected="text")
    spool.add(builder, _given_key(row) or numbered, "\n".join(parts).encode(), TEXT, None, where)


def _add_bytes(builder: RowBuilder, spool: Spool, row: Mapping[str, Any], numbered: str, where: str) -> None:
    extension = image_format(row["image"])
    if extension is None:
        raise UserError("its bytes are no JPEG, PNG or WebP", where=where, expected="an encoded image")
    key = _given_key(row) or numbered
    spool.add(builder, key, row["image"], extension, row.get("caption"), where)


def _add_path(builder: RowBuilder, row: Mapping[str, Any], root: Path, where: str) -> None:
    path = row["image"]
    if not isinstance(path, str):
        raise UserError(f"image {path!r}", where=where, expected="a path, or the bytes of an image")
    extension = extension_of(path)
    if extension not in IMAGE_EXTENSIONS:
        raise UserError(f"'{path}' has extension '{extension}'", where=where, expected=", ".join(IMAGE_EXTENSIONS))
    size, changed = readable_file(root / path, where)
    key = _given_key(row) or _path_key(path, root, where)
    file = str(root / path)
    builder.add(key, file, extension, size=size, stamp=changed, caption=row.get("caption"), where=where)


def _given_key(row: Mapping[str, Any]) -> str:
    """The value of the key column as a key, "" without one."""
    if row.get("key") is None:
        return ""
    directory, slash, base = str(row["key"]).rpartition("/")
    return directory + slash + base.replace(".", "_")


def _path_key(path: str, root: Path, where: str) -> str:
    below = os.path.relpath(path, os.path.abspath(root)) if os.path.isabs(path) else os.path.normpath(path)
    if below.startswith(".."):
        raise UserError(
            f"'{path}' is not below {root}", where=where, expected="a key column, or --root with what all paths share"
        )
    return key_of(below.replace(os.sep, "/"))


def _stated_classes(file: Path, columns: Columns) -> tuple[str, ...] | None:
    """Class names that Hugging Face's `datasets` left in a Parquet file's schema."""
    if file.suffix != ".parquet":
        return None
    schema = pq.read_schema(file)
    label = columns.of(schema.names, str(file)).get("label", "")
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return None
