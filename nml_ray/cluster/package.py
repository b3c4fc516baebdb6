"""The code that travels with a job: which files, how large, and the digest that says what ran."""

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
        listed = [[file.name, digest_of_file(file.path)] for file in self.files]
        return digest_of(listed)[:16]

    def copy_to(self, directory: Path) -> None:
        """Copy the files below a directory, which is made."""
        for file in self.files:
            target = directory / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.path, target)

    def write_zip(self, target: Path) -> None:
        """Write the files as an archive; the same files give the same bytes."""
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in self.files:
                archive.writestr(zipfile.ZipInfo(file.name, _EPOCH), file.path.read_bytes(), zipfile.ZIP_DEFLATED)
