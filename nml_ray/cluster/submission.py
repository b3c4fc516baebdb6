"""What has been submitted: plain data, kept on the job's storage and by the machine it was submitted from."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self

from nml_ray.cluster.fields import taken

_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # no i, l, o, 0, 1
_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_LONGEST = 24  # characters of the job's name in an id: KubeRay's names have 47 at most

State = Literal[
    "sending", "not sent", "queued", "running", "succeeded", "failed", "stopped", "lost", "unreadable"
]  # fmt: skip
"""`not sent`: its sending was broken off. `lost`: it ran, and neither the cluster nor a heartbeat knows of it any more.
`unreadable`: its cluster does not answer, and what it left cannot be read."""

ENDED: tuple[State, ...] = ("not sent", "succeeded", "failed", "stopped", "lost")


@dataclass(frozen=True)
class Submission:
    """A job that was handed to a cluster.

    Attributes:
        id: readable and unique, valid as a name on every kind of cluster.
        job: name of the job, that of its study.
        cluster: the cluster file as it was understood; holds no secrets.
        storage: path or URL, as the cluster's machines see it.
        arguments: of `nml-ray run` on the cluster, the job file's path (below the code) first.
        code: digest of what was sent along.
        submitted: time, ISO 8601 in UTC.
        handle: what the cluster calls it (Slurm's job number, a Kubernetes name, a process); empty before it is sent.
    """

    id: str
    job: str
    cluster: Mapping[str, Any]
    storage: str
    arguments: tuple[str, ...]
    code: str
    submitted: str
    handle: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Of its cluster."""
        return str(self.cluster["kind"])

    def to_data(self) -> dict[str, Any]:
        """As plain JSON data."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Any, id: str) -> Self:
        """What `to_data` gave, as it is kept under an id.

        Raises:
            ValueError: it is not that: another id, or what is no submission.
        """
        found = cls(**taken(cls, data))
        if found.id != id or not is_id(id):
            raise ValueError(f"its id is not '{id}'")
        if not isinstance(found.cluster.get("kind"), str):
            raise ValueError("its cluster has no kind")
        if found.submitted:
            datetime.fromisoformat(found.submitted)
        return found


@dataclass(frozen=True)
class Status:
    """How a submission stands, by the cluster or by what it left on storage.

    Attributes:
        state: see `State`.
        message: one line that says more: the stage at work, the queue's reason, the error.
        exit_code: of the driver, once it has ended.
        source: who says so: "cluster" or "storage".
    """

    state: State
    message: str = ""
    exit_code: int | None = None
    source: Literal["cluster", "storage"] = "cluster"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ENDED


def is_id(text: str) -> bool:
    """Whether a text can be an id; another must not become the name of a file, or a word of a command."""
    return bool(_ID.fullmatch(text))


def new_id(job: str, now: datetime | None = None) -> str:
    """A new id, such as `icons-20261124-153641-k3fq`: a DNS label, like all that clusters take for a name."""
    name = re.sub(r"[^a-z0-9]+", "-", job.lower()).strip("-")[:_LONGEST].strip("-") or "job"
    time = (now or datetime.now(UTC)).strftime("%Y%m%d-%H%M%S")
    name = name if name[0].isalpha() else f"job-{name}"[:_LONGEST].strip("-")
    return f"{name}-{time}-{''.join(secrets.choice(_ALPHABET) for _ in range(4))}"
