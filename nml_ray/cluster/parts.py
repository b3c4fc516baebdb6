"""A log that grows on storage, in numbered parts: a local file is appended to, an object is put anew until full."""

import re
import threading

from nml_ray.cluster.record import Record
from nml_ray.config.errors import UserError
from nml_ray.storage.patience import Patience

FULL = 1 << 20  # bytes of an object after which the next one is begun
_LARGE = 8 << 20  # bytes of one while as many wait
_ENOUGH = 32 << 20  # bytes that wait before the writer of the log does, as long as the storage is well
_PATIENCE = 30.0  # seconds that it waits at most
_MOST = 64 << 20  # bytes that are held back while the storage cannot be written


class Parts:
    """One log of one writer. Whoever writes later to the same folder goes on with the next number."""

    def __init__(self, record: Record, folder: str, suffix: str) -> None:
        self.record = record
        self.folder = folder
        self.suffix = suffix
        self._lock = threading.Condition()
        self._well = True
        self._taken = 0  # of what waits, bytes that are just being written
        self._waiting = bytearray()
        self._dropped = 0
        self._part = bytearray()
        self._number = 0

    def add(self, data: bytes) -> None:
        """Take bytes of the log; they are written by the next `flush`. Safe from any thread.

        Waits while much is there that a storage which is well is about to take: then nothing is lost.
        """
        with self._lock:
            in_time = self._lock.wait_for(lambda: len(self._waiting) < _ENOUGH or not self._well, _PATIENCE)
            self._well = self._well and in_time
            self._waiting += data
            if (over := len(self._waiting) - _MOST) > 0:
                del self._waiting[self._taken : self._taken + over]
                self._dropped += over

    def flush(self, patience: Patience | None = None) -> None:
        """Write what has been taken so far; from one thread at a time.

        Raises:
            UserError: the storage refuses or cannot be reached; nothing is lost, the next call writes it.
        """
        if count := self._ready():
            try:
                if self._number == 0:
                    self._number = self._last(patience) + 1
                if self.record.location.remote:
                    self._put(count, patience)
                else:
                    self._append(count)
            except BaseException:
                self._is_well(False)
                raise
            self._is_well(True)

    def _last(self, patience: Patience | None) -> int:
        numbers = [re.match(r"[0-9]+", name) for name in self.record.names(self.folder, patience)]
        return max((int(number[0]) for number in numbers if number), default=0)

    def _put(self, count: int, patience: Patience | None) -> None:
        while count:
            full = max(FULL, _LARGE if count >= _LARGE else 0)
            data = self._next(min(count, full - len(self._part)))
            self.record.write(self._name(), bytes(self._part) + data, patience)
            self._part += data
            self._written(len(data))
            count -= len(data)
            if len(self._part) >= FULL:
                self._part.clear()
                self._number += 1

    def _append(self, count: int) -> None:
        path = self.record.at(self._name()).local
        data = self._next(count)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab", buffering=0) as file:
                while data:
                    written = file.write(data)
                    self._written(written)
                    data = data[written:]
        except OSError as error:
            raise UserError(f"cannot be written ({error.strerror})", where=str(path)) from None

    def _name(self) -> str:
        return f"{self.folder}/{self._number:06d}{self.suffix}"

    def _ready(self) -> int:
        """How many bytes wait, with the note of those that are lost."""
        with self._lock:
            if self._dropped:
                note = f"\n[{self._dropped:,} bytes are lost here: the storage could not be written]\n"
                self._waiting[:0] = note.encode()
                self._dropped = 0
            return len(self._waiting)

    def _next(self, most: int) -> bytes:
        with self._lock:
            data = bytes(self._waiting[:most])
            self._taken = len(data)
            return data

    def _written(self, count: int) -> None:
        with self._lock:
            del self._waiting[:count]
            self._taken -= count
            self._lock.notify_all()

    def _is_well(self, well: bool) -> None:
        with self._lock:
            self._well, self._taken = well, 0
            self._lock.notify_all()
