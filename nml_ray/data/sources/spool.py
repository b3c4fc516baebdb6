"""Images that come as bytes, in the source's order, laid end to end in a file so that they can be read in any order."""

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from nml_ray.data.sources.listing import RowBuilder


class Spool:
    """A temporary file of images; as large as they are together. Removed at the end of the block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "wb")
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def add(self, rows: RowBuilder, key: str, image: bytes, extension: str, caption: str | None, where: str) -> None:
        """Append an image and its row; the row's stamp is a digest of the bytes."""
        stamp = int.from_bytes(hashlib.blake2b(image, digest_size=8).digest(), "little", signed=True)
        rows.add(
            key,
            str(self.path),
            extension,
            size=len(image),
            offset=self._end,
            stamp=stamp,
            caption=caption,
            where=where,
        )
        self._file.write(image)
        self._end += len(image)

    def flush(self) -> None:
        """Let other processes read what was added, also those of other machines."""
        self._file.flush()
        os.fsync(self._file.fileno())
