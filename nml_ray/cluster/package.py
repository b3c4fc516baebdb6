"""The code that travels with a job: which files, how large, and the digest that says what ran."""

import hashlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nml_ray.config.errors import UserError
from nml_ray.storage.digest import digest_of, digest_of_file

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files make the same archive, whenever it is made


@dataclass(frozen=True)
class CodeFile:
    """A file that is sent: its path below the job's directory with forward slashes, where it lies here, its bytes."""

    name: str
    path: Path
    size: int


@dataclass(frozen=True)
class Package:
    """All files that are sent, sorted by name."""

    files: Sequence[CodeFile]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """Of names and contents: 16 hexadecimal digits."""
        return digest_of([[name, digest] for name, digest in self._digests.items()])[:16]

    @cached_property
    def _digests(self) -> Mapping[str, str]:
        return {file.name: digest_of_file(file.path) for file in self.files}

    def copy_to(self, directory: Path) -> None:
        """Copy the files below a directory, which is made.

        Raises:
            UserError: one was changed or removed since the digest was taken.
        """
        for name, data in self._contents():
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)

    def write_zip(self, target: Path) -> None:
        """Write the files as an archive; the same files give the same bytes.

        Raises:
            UserError: one was changed or removed since the digest was taken.
        """
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in self._contents():
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        """Names and bytes, which are those that the digest is of."""
        for name, path in {file.name: file.path for file in self.files}.items():
            digest = self._digests[name]
            data = path.read_bytes() if path.is_file() else b""
            if not path.is_file() or hashlib.sha256(data).hexdigest() != digest:
                raise UserError(
                    "was changed while it was being sent", where=str(path), expected="the same command once more"
                )
            yield name, data
