"""A log that grows on storage, in numbered parts: a local file is appended to, an object is put anew until full."""

import re
import threading

from nml_ray.cluster.record import Record
from nml_ray.config.errors import UserError
from nml_ray.storage.patience import Patience

FULL = 1 << 20  # bytes of an object after which the next one is begun
_MOST = 64 << 20  # bytes that are held back while the storage cannot be written


class Parts:
    """One log of one writer. Whoever writes later to the same folder goes on with the next number."""

    def __init__(self, record: Record, folder: str, suffix: str) -> None:
        self.record = record
        self.folder = folder
        self.suffix = suffix
        self._lock = threading.Lock()
        self._waiting = bytearray()
        self._dropped = 0
        self._part = bytearray()
        self._number = 0

    def add(self, data: bytes) -> None:
        """Take bytes of the log; they are written by the next `flush`. Safe from any thread."""
        with self._lock:
            self._waiting += data
            if (over := len(self._waiting) - _MOST) > 0:
                del self._waiting[:over]
                self._dropped += over

    def flush(self, patience: Patience | None = None) -> None:
        """Write what was taken; from one thread at a time.

        Raises:
            UserError: the storage refuses or cannot be reached; nothing is lost, the next call writes it.
        """
        if not self._waiting:
            return
        if self._number == 0:
            self._number = self._last(patience) + 1
        if self.record.location.remote:
            self._put(patience)
        else:
            self._append()

    def _last(self, patience: Patience | None) -> int:
        numbers = [re.match(r"[0-9]+", name) for name in self.record.names(self.folder, patience)]
        return max((int(number[0]) for number in numbers if number), default=0)

    def _put(self, patience: Patience | None) -> None:
        while data := self._next(FULL - len(self._part)):
            self.record.write(self._name(), bytes(self._part) + data, patience)
            self._part += data
            self._written(len(data))
            if len(self._part) >= FULL:
                self._part.clear()
                self._number += 1

    def _append(self) -> None:
        path = self.record.at(self._name()).local
        data = self._next(_MOST)
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

    def _next(self, most: int) -> bytes:
        with self._lock:
            if self._dropped:
                note = f"\n[{self._dropped:,} bytes are lost here: the storage could not be written]\n"
                self._waiting[:0] = note.encode()
                self._dropped = 0
            return bytes(self._waiting[:most])

    def _written(self, count: int) -> None:
        with self._lock:
            del self._waiting[:count]
