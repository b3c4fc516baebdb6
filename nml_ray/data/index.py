"""The index beside a tar: where each sample's members lie, its label, caption and content digest, as Arrow IPC.

`x-000017.index.arrow` lies beside `x-000017.tar`. Made by one walk over the tar's headers; any WebDataset can be
indexed without rewriting it. Rows are samples in tar order.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from nml_ray.config.errors import UserError, nearest_name
from nml_ray.data.aside import replacing
from nml_ray.data.draw import key_hashes
from nml_ray.data.tar import Data, FileData, Member, member_name, regular_members

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
TEXT = "txt"  # extension of a sample that is a text
FORMAT = 1
LOOKED_AT = 8  # samples of a tar that is younger than its index
_FACTS = b"nml_ray.index"

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("key_hash", pa.uint64(), nullable=False),
        pa.field("label", pa.int64()),
        pa.field("caption", pa.string()),
        pa.field(
            "members",
            pa.list_(pa.struct([("extension", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])),
            nullable=False,
        ),
        pa.field("content", pa.binary(16), nullable=False),
        pa.field("image", pa.int32(), nullable=False),  # which of the members is the image
        pa.field("header", pa.int64(), nullable=False),  # offset of the image member's first header block
    ]
)


@dataclass(frozen=True)
class IndexOptions:
    """How foreign tars are read.

    Attributes:
        classes: class names in label order, to turn names into labels and to check numbers; None where unknown.
        key_prefix: "shard" puts the tar's base name (without .tar) and "/" before each key; "" leaves keys alone.
        image: extension of the image member where a sample has several; "" takes the first of jpg, jpeg, png, webp,
            else the only member whose last extension is one of them.
    """

    classes: tuple[str, ...] | None = None
    key_prefix: str = ""
    image: str = ""

    def facts(self) -> dict[str, Any]:
        """Plain JSON data; an index made with other options is stale."""
        return {"classes": list(self.classes) if self.classes else None, "prefix": self.key_prefix, "image": self.image}


@dataclass
class _Sample:
    key: str
    members: list[tuple[str, Member]] = field(default_factory=list)


def index_path(tar: Path) -> Path:
    """Where the index of a tar lies."""
    return tar.with_name(tar.name.removesuffix(".tar") + ".index.arrow")


def index_tar(path: Path, options: IndexOptions = IndexOptions()) -> pa.Table:
    """The index of one tar, as a table of `SCHEMA`; `index_facts` reads what was skipped.

    Raises:
        UserError: a damaged tar; a key that comes twice, is not contiguous or not UTF-8; a label, caption or JSON
            that cannot be read; a sample with several images and no way to tell which is meant.
    """
    with open(path, "rb") as file:
        data = FileData(file.fileno(), str(path))
        if not len(data):
            raise UserError("is empty", where=str(path), expected="a tar")
        samples, skipped = _group(regular_members(data, str(path)), path, options)
        return _table(data, samples, skipped, path, options)


def index_facts(table: pa.Table) -> dict[str, Any]:
    """What an index says of itself: format, bytes of its tar, skipped members, samples without image, options."""
    facts: dict[str, Any] = json.loads(table.schema.metadata[_FACTS])
    return facts


def with_facts(table: pa.Table, **more: Any) -> pa.Table:
    """The index with more facts, plain JSON data."""
    facts = json.dumps({**index_facts(table), **more}, sort_keys=True, ensure_ascii=False)
    return table.replace_schema_metadata({_FACTS: facts})


def write_index(table: pa.Table, path: Path) -> None:
    """Write an index as uncompressed Arrow IPC, atomically."""
    with replacing(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table)


def index_checksum(path: Path) -> int:
    """CRC-32 of an index file: 3 GB/s, so that every opening can afford to notice damage.

    Read, not mapped: mapped pages would count as this process's memory, all of the index at once.
    """
    checksum, buffer = 0, memoryview(bytearray(1 << 20))
    with open(path, "rb", buffering=0) as file:
        while read := file.readinto(buffer):
            checksum = zlib.crc32(buffer[:read], checksum)
    return checksum


def read_index(path: Path, checksum: int | None = None) -> pa.Table:
    """An index, memory-mapped.

    Arrow trusts what it maps: a flipped bit is another label, or a crash. So `checksum` (`index_checksum` when it was
    written) is compared first; without one the table's structure is validated, which reads it through.

    Raises:
        UserError: missing, damaged, not an index, or of another format.
    """
    expected = f"an index; make it with `nml-ray data index {path.parent}`"
    try:
        if checksum is not None and index_checksum(path) != checksum:
            raise UserError("is damaged, or another than dataset.json knows", where=str(path), expected=expected)
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        if checksum is None:
            table.validate(full=True)
        facts = index_facts(table)
    except FileNotFoundError:
        raise UserError("is missing", where=str(path), expected=expected) from None
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path), expected=expected) from None
    if facts.get("format") != FORMAT or table.schema.names != SCHEMA.names:
        raise UserError(f"has format {facts.get('format')}", where=str(path), expected=expected)
    return table


def still_fits(tar: Path, index: pa.Table) -> bool:
    """Whether some samples, spread over the tar, are as the index says: key, image, label and caption.

    Where the tar is younger than its index, this tells one that was copied or restored from one that was changed.
    """
    count = index.num_rows
    numbers = sorted({count * part // LOOKED_AT for part in range(LOOKED_AT)} | {count - 1}) if count else []
    options = index_facts(index)["options"]
    known = IndexOptions(tuple(options["classes"]) if options["classes"] else None, options["prefix"], options["image"])
    names = {name: number for number, name in enumerate(known.classes or ())}
    with open(tar, "rb") as file:
        data = FileData(file.fileno(), str(tar))
        for row in index.take(pa.array(numbers, pa.int64())).to_pylist():
            members = [(m["extension"], Member(b"", 0, m["offset"], m["size"])) for m in row["members"]]
            image = members[row["image"]][1]
            if _content_digest(data, image) != row["content"]:
                return False
            try:
                blocks = data[row["header"] : image.offset]
                parts = split_name(member_name(blocks, str(tar), row["header"]).decode(errors="replace"))
                found = _annotations(data, _Sample(row["key"], members), tar, known, names)
            except UserError:
                return False
            if parts is None or not row["key"].endswith(parts[0]) or found != (row["label"], row["caption"]):
                return False
    return True


def split_name(name: str) -> tuple[str, str] | None:
    """Key and extension (lower case) of a member's name; None without a dot or with an empty stem."""
    directory, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return (directory + slash + stem, extension.lower()) if stem and dot else None


def _group(members: Iterable[Member], path: Path, options: IndexOptions) -> tuple[list[_Sample], int]:
    """Samples of a tar, and how many members belong to none."""
    prefix = path.name.removesuffix(".tar") + "/" if options.key_prefix == "shard" else ""
    samples: list[_Sample] = []
    seen: dict[str, _Sample] = {}
    skipped = 0
    for member in members:
        try:
            parts = split_name(member.name.decode())
        except UnicodeDecodeError:
            raise UserError(f"member {member.name!r} is not UTF-8", where=str(path), expected="UTF-8 names") from None
        if parts is None:
            skipped += 1
            continue
        key, extension = prefix + parts[0], parts[1]
        if not samples or samples[-1].key != key:
            _refuse_again(key, extension, seen, path)
            samples.append(_Sample(key))
            seen[key] = samples[-1]
        elif any(extension == other for other, _ in samples[-1].members):
            _refuse_again(key, extension, seen, path)
        samples[-1].members.append((extension, member))
    return samples, skipped


def _refuse_again(key: str, extension: str, seen: dict[str, _Sample], path: Path) -> None:
    """Refuses a key that came before: as a duplicate where this extension came too, else as not contiguous."""
    if key not in seen:
        return
    if any(extension == other for other, _ in seen[key].members):
        raise UserError(f"key '{key}' has '.{extension}' twice", where=str(path), expected="each key once in the data")
    raise UserError(
        f"the members of key '{key}' do not stand together ('.{extension}' comes later)",
        where=str(path),
        expected="all members of a sample one after another (`tar --sort=name`)",
    )


def _table(data: Data, samples: list[_Sample], skipped: int, path: Path, options: IndexOptions) -> pa.Table:
    names = {name: number for number, name in enumerate(options.classes or ())}
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names if name != "key_hash"}
    imageless: list[str] = []
    for sample in samples:
        image = _image_of(sample, path, options.image)
        if image is None:
            imageless.append(sample.key)
            continue
        member = sample.members[image][1]
        label, caption = _annotations(data, sample, path, options, names)
        columns["key"].append(sample.key)
        columns["label"].append(label)
        columns["caption"].append(caption)
        columns["members"].append([{"extension": e, "offset": m.offset, "size": m.size} for e, m in sample.members])
        columns["content"].append(_content_digest(data, member))
        columns["image"].append(image)
        columns["header"].append(member.header)
    facts = {
        "format": FORMAT,
        "tar_bytes": len(data),
        "rows": len(columns["key"]),
        "skipped_members": skipped,
        "without_image": len(imageless),
        "first_without_image": imageless[0] if imageless else None,
        "options": options.facts(),
    }
    table: dict[str, Any] = {**columns, "key_hash": pa.array(key_hashes(columns["key"]))}
    arrays = [pa.array(table[name], SCHEMA.field(name).type) for name in SCHEMA.names]
    schema = SCHEMA.with_metadata({_FACTS: json.dumps(facts, sort_keys=True, ensure_ascii=False)})
    return pa.Table.from_arrays(arrays, schema=schema)


def _content_digest(data: Data, member: Member) -> bytes:
    return hashlib.blake2b(data[member.offset : member.offset + member.size], digest_size=16).digest()


def _image_of(sample: _Sample, path: Path, wanted: str) -> int | None:
    """Which member is the image."""
    extensions = [extension for extension, _ in sample.members]
    for extension in (wanted,) if wanted else IMAGE_EXTENSIONS:
        if extension in extensions:
            return extensions.index(extension)
    if wanted:
        return None
    candidates = [i for i, extension in enumerate(extensions) if extension.rpartition(".")[2] in IMAGE_EXTENSIONS]
    if len(candidates) > 1:
        raise UserError(
            f"key '{sample.key}' has several images: {', '.join(extensions[i] for i in candidates)}",
            where=str(path),
            expected="one, or --image with the extension meant",
        )
    return candidates[0] if candidates else None


def _annotations(
    data: Data, sample: _Sample, path: Path, options: IndexOptions, names: dict[str, int]
) -> tuple[int | None, str | None]:
    """Label and caption: from `.cls` and `.txt`, else from `label` and `caption` of `.json`."""
    members = dict(sample.members)

    def text(extension: str) -> str | None:
        if extension not in members:
            return None
        member = members[extension]
        try:
            return data[member.offset : member.offset + member.size].decode()
        except UnicodeDecodeError:
            raise UserError(f".{extension} of key '{sample.key}' is not UTF-8", where=str(path)) from None

    label: Any = text("cls")
    caption: Any = text("txt")
    if (label is None or caption is None) and (raw := text("json")) is not None:
        try:
            record = json.loads(raw)
        except ValueError as error:
            raise UserError(f".json of key '{sample.key}' is not JSON ({error})", where=str(path)) from None
        if isinstance(record, dict):
            label = record.get("label") if label is None else label
            caption = record.get("caption") if caption is None else caption
    if caption is not None and not isinstance(caption, str):
        raise UserError(f"caption {caption!r} of key '{sample.key}'", where=str(path), expected="text")
    return _label_number(label, sample.key, path, options.classes, names), caption


def _label_number(label: Any, key: str, path: Path, classes: Sequence[str] | None, names: dict[str, int]) -> int | None:
    if label is None:
        return None
    word = label.strip() if isinstance(label, str) else label
    number = word
    if isinstance(word, str):  # digits are a number even where a class is named so
        number = int(word) if word.isascii() and word.isdigit() and len(word) < 20 else names.get(word, word)
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < (len(classes) if classes else 2**31):
        return number
    expected = f"a class name, or 0 to {len(classes) - 1}" if classes else "a whole number from 0, or --classes"
    nearest = nearest_name(word, names) if isinstance(word, str) else ""
    raise UserError(f"label {word!r} of key '{key}'", where=str(path), expected=expected, nearest=nearest)
