"""What a supervisor tells of its job every few seconds, and what that means to those who read it."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from nml_ray.cluster.fields import taken
from nml_ray.cluster.submission import Status
from nml_ray.config.terminal import plain
from nml_ray.storage.lease import EXPIRY
from nml_ray.storage.pulse import surely_dead

BeatState = Literal["running", "stopping", "succeeded", "failed", "stopped"]


@dataclass(frozen=True)
class Beat:
    """The content of status.json. Times are Unix time by the clock of the machine where the supervisor runs.

    Attributes:
        state: `stopping` while the job goes to a checkpoint.
        attempt: 1, one more each time that a supervisor goes on with the submission.
        host: where the supervisor runs.
        pid: of the supervisor, there.
        process: when that process started (see `pulse.process_started`): a later one may have its pid.
        started: time of this attempt's beginning.
        heartbeat: time of this sign of life.
        message: the last line that the job printed.
        exit_code: of the job, once it has ended.
        ended: time at which it did.
        machine: where that process can be looked for (see `pulse.this_machine`).
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
    machine: str = ""

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

    @property
    def dead(self) -> bool:
        """Whether the supervisor has ended for certain, which only a process beside it can tell."""
        return surely_dead(self.machine, self.pid, self.process)

    def silence(self, now: float, changed: float | None = None) -> float:
        """Seconds without a sign of life, as far as one look tells: by the freshest time that is not of the future.

        Args:
            now: Unix time by our clock.
            changed: when its file last changed, by the storage's clock.
        """
        ages = [now - time for time in (self.heartbeat, changed) if time is not None]
        return min((max(age, 0.0) for age in ages if age > -EXPIRY), default=0.0)

    def alive(self, now: float, changed: float | None = None) -> bool:
        """Whether the supervisor can still be at work, as far as one look tells; see `silence`."""
        return self.ended is None and not self.dead and self.silence(now, changed) < EXPIRY

    def status(self, silence: float) -> Status:
        """How the job stands, as far as this tells, with nothing heard for so many seconds."""
        if self.ended is not None:
            assert self.state in ("succeeded", "failed", "stopped")
            return Status(self.state, self.message, self.exit_code, "storage")
        if self.dead or silence >= EXPIRY:
            ago = f"no sign of life from {self.host} for {silence:.0f} s"
            ago = f"its supervisor on {self.host} ended without a word" if self.dead else ago
            return Status("lost", f"{ago}; last: {self.message}" if self.message else ago, None, "storage")
        message = f"stopping: {self.message}" if self.state == "stopping" else self.message
        return Status("running", message, None, "storage")


def said(output: str) -> str:
    """The last line of some output that says something, as one short line without control characters; "" if none."""
    for line in reversed(output.split("\n")):
        shown = line.rstrip("\r").rpartition("\r")[2]  # what stays of a line that was written over
        if clean := plain(shown).strip():
            return clean[:200]
    return ""
