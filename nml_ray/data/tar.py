"""The members of a tar file by a walk over its headers: ustar, pax and GNU long names, nothing unpacked.

Stricter than `tarfile`, which ends quietly where a file is damaged: every departure is an error that names the place.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from nml_ray.config.errors import UserError

BLOCK = 512
_ZEROS = bytes(BLOCK)
_PLAIN = frozenset(b"0\x007")
_WITHOUT_DATA = frozenset(b"123456")  # links, devices, directories, pipes


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in a tar: `header` is the offset of its first header block (pax and long-name blocks included),
    `offset` and `size` those of its bytes; `name` as in the header."""

    name: bytes
    header: int
    offset: int
    size: int


class Data(Protocol):
    """The bytes of a file, taken by slices as from `bytes`."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


class FileData:
    """The bytes of an open file as long as it is now; read when they are asked for.

    Not mapped: of a file that another process cuts short meanwhile, a mapping would kill this one.
    """

    def __init__(self, descriptor: int, where: str) -> None:
        self._descriptor, self._where = descriptor, where
        self._size = os.fstat(descriptor).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice, /) -> bytes:
        """Bytes of a slice of step 1.

        Raises:
            UserError: the file has become shorter.
        """
        start, stop, _ = part.indices(self._size)
        data = os.pread(self._descriptor, max(0, stop - start), start)
        while len(data) < stop - start:  # a read ends at 2 GB
            if not (more := os.pread(self._descriptor, stop - start - len(data), start + len(data))):
                size = os.fstat(self._descriptor).st_size
                raise UserError(
                    f"was cut to {size} bytes while it was read", where=self._where, expected="a tar at rest"
                )
            data += more
        return data


def regular_members(data: Data, where: str) -> Iterator[Member]:
    """The regular files of a tar in their order.

    Args:
        data: the whole file.
        where: names the file in errors.

    Raises:
        UserError: damaged, cut, compressed, sparse, or going on after its end.
    """
    if data[:2] == b"\x1f\x8b" or data[:3] == b"BZh" or data[:6] == b"\xfd7zXZ\x00":
        raise UserError("is compressed", where=where, expected="a plain tar, whose members can be read by offset")
    position = 0
    shared: dict[str, bytes] = {}
    while position + BLOCK <= len(data):
        if data[position : position + BLOCK] == _ZEROS:
            _check_end(data, position, where)
            return
        member, position, regular = _next_member(data, position, shared, where)
        if regular:
            yield member
    raise UserError(f"ends at byte {len(data)} without an end mark", where=where, expected="a complete tar")


def member_name(blocks: bytes, where: str, offset: int) -> bytes:
    """The name that the header blocks of a member, which begin at `offset`, give it."""
    return _next_member(blocks, 0, {}, f"{where} from byte {offset}", whole=False)[0].name


def _next_member(
    data: Data, position: int, shared: dict[str, bytes], where: str, whole: bool = True
) -> tuple[Member, int, bool]:
    """The member whose headers begin at `position`, the offset after it, and whether it is a regular file.

    `whole`: its bytes must be there too.
    """
    start = position
    own: dict[str, bytes] = {}
    while True:
        block = data[position : position + BLOCK]
        if len(block) < BLOCK or not _checksum_holds(block):
            raise UserError(f"no valid header at byte {position}", where=where, expected="an undamaged tar")
        size, kind = _number(block[124:136], position, where), block[156]
        position += BLOCK
        if kind in b"xgLK":
            body = _body(data, position, size, where)
            if kind == 0x67:
                shared.update(_pax_records(body, position, where))
            elif kind == 0x78:
                own.update(_pax_records(body, position, where))
            elif kind == 0x4C:
                own["path"] = body.split(b"\0", 1)[0]
            position += -(-size // BLOCK) * BLOCK
            continue
        facts = {**shared, **own}
        if kind == 0x53 or any(name.startswith("GNU.sparse") for name in facts):
            raise UserError(f"a sparse member at byte {start}", where=where, expected="plain files")
        name = facts.get("path") or _name(block)
        if "size" in facts:
            size = _decimal(facts["size"], start, where)
        regular = kind in _PLAIN and not (kind == 0 and name.endswith(b"/"))
        if kind in _WITHOUT_DATA:
            size = 0
        end = position + size
        if size < 0 or (whole and end > len(data)):
            raise UserError(
                f"member '{name.decode(errors='replace')}' reaches byte {end} of {len(data)}",
                where=where,
                expected="a complete tar",
            )
        return Member(name, start, position, size), position + -(-size // BLOCK) * BLOCK, regular


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].split(b"\0", 1)[0]
        return prefix + b"/" + name if prefix else name
    return name


def _checksum_holds(block: bytes) -> bool:
    try:
        stated = int(block[148:156].replace(b"\0", b" ").strip() or b"-1", 8)
    except ValueError:
        return False
    found = sum(block) - sum(block[148:156]) + 8 * 0x20
    if stated == found:
        return True
    high = sum(byte >= 128 for byte in block) - sum(byte >= 128 for byte in block[148:156])
    return stated == found - 256 * high  # summed as signed bytes by some old programs


def _number(field: bytes, position: int, where: str) -> int:
    if field[0] in (0x80, 0xFF):
        number = int.from_bytes(field[1:], "big", signed=False)
        return number if field[0] == 0x80 else -1
    try:
        return int(field.replace(b"\0", b" ").strip() or b"0", 8)
    except ValueError:
        raise UserError(f"no size in the header at byte {position}", where=where, expected="an undamaged tar") from None


def _decimal(text: bytes, position: int, where: str) -> int:
    if not text.isdigit() or len(text) > 20:
        raise UserError(f"size {text!r} in the header at byte {position}", where=where, expected="a whole number")
    return int(text)


def _body(data: Data, position: int, size: int, where: str) -> bytes:
    if size < 0 or position + size > len(data):
        raise UserError(f"header data at byte {position} is cut", where=where, expected="a complete tar")
    return data[position : position + size]


def _pax_records(body: bytes, position: int, where: str) -> dict[str, bytes]:
    """The records "<length> <name>=<value>\\n" of a pax header."""
    records: dict[str, bytes] = {}
    at = 0
    while at < len(body) and body[at]:
        length, _, _ = body[at : at + 24].partition(b" ")
        end = at + int(length) if length.isdigit() and length else at
        record = body[at + len(length) + 1 : end - 1]
        name, equals, value = record.partition(b"=")
        if end <= at or end > len(body) or body[end - 1 : end] != b"\n" or not equals:
            raise UserError(f"a malformed pax header at byte {position}", where=where, expected="an undamaged tar")
        records[name.decode(errors="replace")] = value
        at = end
    return records


def _check_end(data: Data, position: int, where: str) -> None:
    for start in range(position, len(data), 1 << 20):
        if data[start : start + (1 << 20)].strip(b"\0"):
            raise UserError(
                f"more data after its end mark at byte {position}",
                where=where,
                expected="one tar (joined tars must be joined with `tar --concatenate`)",
            )
