"""Measures of the machine: memory, disks, the GPU."""

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

BLOCK = 4 << 20
FILE = 64 << 20  # bytes of the file that is written where there is none to read
DROPPED = 0.6  # a cold read above this share of the warm one came from memory


@dataclass(frozen=True)
class Memory:
    """Bytes in all, and bytes that programs and the page cache may still take."""

    total: int
    available: int


@dataclass(frozen=True)
class Disk:
    """Where files lie. Rates are bytes a second, in sequence.

    Attributes:
        path: the directory.
        free: bytes.
        cold: read after the page cache was asked to forget the files.
        warm: read again at once.
        write: written and brought to the disk; None where files were there to read.
    """

    path: str
    free: int
    cold: float
    warm: float
    write: float | None = None

    @property
    def from_memory(self) -> bool:
        """Whether the page cache did not forget (tmpfs, some network and overlay file systems): `cold` is warm then."""
        return self.cold > DROPPED * self.warm


@dataclass(frozen=True)
class Gpu:
    """The first of `count` CUDA devices: bytes of memory, and bytes a second of a copy from page-locked memory."""

    name: str
    memory: int
    copy: float
    count: int = 1


def memory() -> Memory:
    """The machine's memory."""
    found = psutil.virtual_memory()
    return Memory(found.total, found.available)


def busy_cores() -> float:
    """Cores' worth of time that all programs of the machine use while this one waits a moment."""
    return psutil.cpu_percent(interval=0.3) / 100 * (psutil.cpu_count() or 1)


def existing(directory: Path) -> Path:
    """The directory, or the nearest one above it that is there."""
    directory = directory.absolute()
    return next(one for one in (directory, *directory.parents) if one.is_dir())


def disk_of(files: Sequence[Path], seconds: float) -> Disk:
    """The disk that holds some files, by reading them."""
    cold, size = _read_cold(files, seconds / 2)
    warm, _ = _read(files, seconds / 2, size)
    directory = files[0].absolute().parent
    return Disk(str(directory), shutil.disk_usage(directory).free, cold, warm)


def disk_below(directory: Path, seconds: float) -> Disk:
    """The disk of a directory, by a file of 64 MB that is written there and removed.

    Raises:
        OSError: it cannot be written.
    """
    found = existing(directory)
    block = os.urandom(BLOCK)
    with tempfile.NamedTemporaryFile(dir=found, prefix=".nml-ray-doctor-") as file:
        began, size = time.perf_counter(), 0
        while size < FILE and time.perf_counter() - began < seconds / 2:
            size += file.write(block)
        file.flush()
        os.fsync(file.fileno())
        write = size / (time.perf_counter() - began)
        read = disk_of([Path(file.name)], seconds / 2)
    return Disk(str(directory), read.free, read.cold, read.warm, write)


def forget(files: Sequence[Path]) -> None:
    """Ask the page cache to forget files; what other processes have mapped stays."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in files:
        with open(file, "rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_cold(files: Sequence[Path], seconds: float) -> tuple[float, int]:
    forget(files)
    return _read(files, seconds)


def _read(files: Sequence[Path], seconds: float, most: int | None = None) -> tuple[float, int]:
    """Bytes a second and bytes read, one file after another."""
    buffer = bytearray(BLOCK)
    began, size = time.perf_counter(), 0
    for file in files:
        with open(file, "rb", buffering=0) as opened:
            while count := opened.readinto(buffer):
                size += count
                if time.perf_counter() - began > seconds or (most is not None and size >= most):
                    return size / (time.perf_counter() - began), size
    return size / max(time.perf_counter() - began, 1e-9), size


def gpu(seconds: float) -> Gpu | None:
    """The first CUDA device; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    device = torch.device("cuda", 0)
    source = torch.empty(32 << 20, dtype=torch.uint8, pin_memory=True)
    source.to(device)
    torch.cuda.synchronize(device)
    began, size = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        source.to(device, non_blocking=True)
        torch.cuda.synchronize(device)
        size += source.numel()
    facts = torch.cuda.get_device_properties(device)
    return Gpu(facts.name, facts.total_memory, size / (time.perf_counter() - began), torch.cuda.device_count())
