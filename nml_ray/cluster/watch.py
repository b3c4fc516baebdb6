"""How a submission stands and what it prints, by what its supervisor leaves on storage."""

import codecs
import time
from collections.abc import Callable, Iterator

from nml_ray.cluster.beat import Beat
from nml_ray.cluster.fields import Unreadable
from nml_ray.cluster.record import DRIVER, STATUS, SUBMISSION, Record
from nml_ray.cluster.submission import Status, Submission
from nml_ray.config.errors import UserError
from nml_ray.storage import remote
from nml_ray.storage.lease import EXPIRY, STALE
from nml_ray.storage.patience import Patience
from nml_ray.storage.pulse import Pulse

_LOCAL_PACE, _REMOTE_PACE = 0.2, 3.0  # seconds between two looks


def beat_of(record: Record, patience: Patience | None = None) -> Beat | None:
    """The last sign of life; None before the first.

    Raises:
        Unreadable: what is there is no sign of life.
        UserError: the storage cannot be reached.
    """
    data = record.read_json(STATUS, patience)
    try:
        return None if data is None else Beat.from_data(data)
    except ValueError as error:
        raise Unreadable(f"cannot be understood ({error})", where=str(record.at(STATUS))) from None


def status_of(record: Record, patience: Patience | None = None) -> Status | None:
    """How a submission stands as far as one look tells; None where nothing is told of it. See `beat_of`."""
    beat = beat_of(record, patience)
    if beat is None:
        return None
    silence = beat.silence(time.time())
    if silence >= EXPIRY and beat.ended is None:  # or only its clock is slow
        silence = beat.silence(time.time(), record.changed(STATUS, patience))
    return beat.status(silence)


def watched(record: Record, pulse: Pulse | None = None) -> Callable[[], Status | None]:
    """What tells how a submission stands, asked again and again: `lost` once it has been silent all the time.

    Raises:
        UserError: when asked, the storage cannot be reached.
    """
    pulse = pulse or Pulse()

    def status() -> Status | None:
        beat = beat_of(record)
        if beat is None:
            return None
        silence = pulse.silence("", beat)
        if silence < EXPIRY and beat.silence(time.time()) >= STALE:  # no need to wait
            told = beat.silence(time.time(), record.changed(STATUS))
            silence = told if told >= STALE else silence
        return beat.status(silence)

    return status


def submission_of(record: Record, patience: Patience | None = None) -> Submission | None:
    """What was submitted; None where that could not be kept. See `beat_of`."""
    data = record.read_json(SUBMISSION, patience)
    try:
        return None if data is None else Submission.from_data(data, record.location.name)
    except ValueError as error:
        raise Unreadable(f"cannot be understood ({error})", where=str(record.at(SUBMISSION))) from None


class Tail:
    """The driver's log from its beginning on, as far as it is there."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._name = ""
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def more(self, patience: Patience | None = None) -> str:
        """What has come since the last call.

        Raises:
            UserError: the storage cannot be reached.
        """
        text = ""
        for name, size in self._parts(patience):
            if name < self._name:
                continue
            if name > self._name:
                self._name, self._offset = name, 0
            if size > self._offset:
                data = self._read(name, size, patience)
                self._offset += len(data)
                text += self._decoder.decode(data)
        return text

    def _parts(self, patience: Patience | None) -> list[tuple[str, int]]:
        at = self.record.at(DRIVER)
        if not at.remote:
            try:
                return [(name, (at.local / name).stat().st_size) for name in self.record.names(DRIVER)]
            except OSError as error:
                raise UserError(f"cannot be read ({error.strerror})", where=str(at)) from None
        try:
            return [(found.name, found.size) for found in remote.objects(at, patience)]
        except remote.NotThere:
            return []

    def _read(self, name: str, size: int, patience: Patience | None) -> bytes:
        at = self.record.at(f"{DRIVER}/{name}")
        if at.remote:
            return remote.read_range(at, self._offset, size - self._offset, patience)
        try:
            with open(at.local, "rb") as file:
                file.seek(self._offset)
                return file.read()
        except OSError as error:
            raise UserError(f"cannot be read ({error.strerror})", where=str(at)) from None


def follow(record: Record, status: Callable[[], Status | None]) -> Iterator[str]:
    """The driver's log as it comes, in pieces of text, to the job's end.

    Args:
        record: of the submission.
        status: how it stands; the log ends when that has.

    Raises:
        UserError: the storage cannot be reached.
    """
    tail = Tail(record)
    pace = _REMOTE_PACE if record.location.remote else _LOCAL_PACE
    while True:
        found = status()
        if text := tail.more():
            yield text
        if found and found.ended:
            return
        time.sleep(pace)
