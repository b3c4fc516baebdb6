"""What a supervisor tells of its job every few seconds, and what that means to those who read it."""

import re
import socket
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from nml_ray.cluster.fields import taken
from nml_ray.cluster.submission import Status
from nml_ray.storage.lease import EXPIRY, process_started

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours and moves of a terminal
BeatState = Literal["running", "stopping", "succeeded", "failed", "stopped"]


@dataclass(frozen=True)
class Beat:
    """The content of status.json. Times are Unix time.

    Attributes:
        state: `stopping` while the job goes to a checkpoint.
        attempt: 1, one more each time that a supervisor goes on with the submission.
        host: where the supervisor runs.
        pid: of the supervisor, there.
        process: when that process started (see `lease.process_started`): a later one may have its pid.
        started: time of this attempt's beginning.
        heartbeat: time of this sign of life.
        message: the last line that the job printed.
        exit_code: of the job, once it has ended.
        ended: time at which it did.
    """

    state: BeatState
    attempt: int
    host: str
    pid: int
    process: int
    started: float
    heartbeat: float
    message: str = ""
    exit_code: int | None = None
    ended: float | None = None

    def to_data(self) -> dict[str, Any]:
        """As plain JSON data."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """What `to_data` gave; a newer version may have said more.

        Raises:
            ValueError: it is not that.
        """
        found = cls(**taken(cls, data))
        if found.ended is not None and found.state in ("running", "stopping"):
            raise ValueError("it has ended and is at work")
        return found

    def alive(self, now: float) -> bool:
        """Whether the supervisor can still be at work. On this machine it is looked for."""
        if self.ended is not None:
            return False
        if self.host == socket.gethostname() and process_started(self.pid) != self.process:
            return False
        return now - self.heartbeat < EXPIRY

    def status(self, now: float) -> Status:
        """How the job stands, as far as this tells."""
        if self.ended is not None:
            assert self.state in ("succeeded", "failed", "stopped")
            return Status(self.state, self.message, self.exit_code, "storage")
        if not self.alive(now):
            ago = f"no sign of life from {self.host} for {now - self.heartbeat:.0f} s"
            return Status("lost", f"{ago}; last: {self.message}" if self.message else ago, None, "storage")
        message = f"stopping: {self.message}" if self.state == "stopping" else self.message
        return Status("running", message, None, "storage")


def said(output: str) -> str:
    """The last line of some output that says something, as one short line without control characters; "" if none."""
    for line in reversed(_CONTROL.sub("", output).split("\n")):
        shown = line.rstrip("\r").rpartition("\r")[2]  # what stays of a line that was written over
        clean = "".join(character for character in shown if character.isprintable()).strip()
        if clean:
            return clean[:200]
    return ""
