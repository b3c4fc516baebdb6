"""What this user submitted from this machine: one small file a submission, in the user's state directory."""

import json
import os
from dataclasses import asdict
from pathlib import Path

from nml_ray.cluster.submission import Status, Submission
from nml_ray.config.errors import UserError, nearest_name
from nml_ray.storage.atomic import json_bytes, read_json_if_whole, write_bytes


def directory() -> Path:
    """Where they lie."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "nml_ray" / "submissions"


def remember(submission: Submission) -> None:
    """Keep a submission; later calls replace it."""
    place = directory()
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_bytes(place / f"{submission.id}.json", json_bytes(submission.to_data()))


def forget(id: str) -> None:
    """Keep a submission no longer; nothing of the job itself is touched."""
    (directory() / f"{id}.json").unlink(missing_ok=True)
    _end(id).unlink(missing_ok=True)


def remember_end(id: str, status: Status) -> None:
    """Keep how a submission ended, so that nobody need be asked again."""
    _end(id).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_bytes(_end(id), json_bytes(asdict(status)), durable=False)


def end_of(id: str) -> Status | None:
    """How a submission ended, where that was kept."""
    found = read_json_if_whole(_end(id))
    return Status(**found) if found else None


def _end(id: str) -> Path:
    return directory() / "ended" / f"{id}.json"


def known() -> list[Submission]:
    """All that are kept, the newest first."""
    found = [Submission.from_data(json.loads(path.read_bytes())) for path in directory().glob("*.json")]
    return sorted(found, key=lambda one: (one.submitted, one.id), reverse=True)


def find(id: str) -> Submission:
    """The submission of an id, or of the only one whose id begins so; `last` is the newest.

    Raises:
        UserError: there is none, or several begin so.
    """
    submissions = known()
    if not submissions:
        fix = "`nml-ray submit`, or --storage with the storage on which one left its record"
        raise UserError("nothing was submitted from this machine yet", where="ID", expected=fix)
    if id == "last":
        return submissions[0]
    exact = [one for one in submissions if one.id == id]
    matching = exact or [one for one in submissions if one.id.startswith(id)]
    if len(matching) == 1:
        return matching[0]
    names = [one.id for one in submissions]
    if matching:
        some = ", ".join(one.id for one in matching[:3])
        raise UserError(f"{len(matching)} submissions begin with '{id}'", where="ID", expected=f"one of {some}")
    raise UserError(
        f"no submission '{id}' was made from this machine",
        where="ID",
        expected="an id that `nml-ray list` shows, or --storage with the storage on which it left its record",
        nearest=nearest_name(id, names),
    )
