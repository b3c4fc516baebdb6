"""What this user submitted from this machine: one small file a submission, in the user's state directory."""

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from nml_ray.cluster.fields import Unreadable, taken
from nml_ray.cluster.submission import Status, Submission, is_id
from nml_ray.config.errors import UserError, nearest_name
from nml_ray.storage.atomic import json_bytes, read_json_if_whole, write_bytes

_FIX = "XDG_STATE_HOME with a directory that you can write to"


def directory() -> Path:
    """Where they lie.

    Raises:
        UserError: this user has no home directory.
    """
    try:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        raise UserError("this user has no home directory", expected=_FIX) from None
    return Path(base) / "nml_ray" / "submissions"


def remember(submission: Submission) -> None:
    """Keep a submission; later calls replace it.

    Raises:
        UserError: the state directory cannot be written; what was kept before is still there.
    """
    place = directory()
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(place / f"{submission.id}.json", json_bytes(submission.to_data()))
    except OSError as error:
        raise UserError(
            f"cannot be written ({error.strerror}), so that submissions could not be found again",
            where=str(place),
            expected=_FIX,
        ) from None


def forget(id: str) -> None:
    """Keep a submission no longer; nothing of the job itself is touched."""
    with suppress(OSError):
        (directory() / f"{id}.json").unlink(missing_ok=True)
        _end(id).unlink(missing_ok=True)


def remember_end(id: str, status: Status) -> None:
    """Keep how a submission of this machine ended, so that nobody need be asked again; where there is room for that."""
    if not (directory() / f"{id}.json").is_file():
        return
    with suppress(OSError):
        _end(id).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(_end(id), json_bytes(asdict(status)), durable=False)


def end_of(id: str) -> Status | None:
    """How a submission ended, where that was kept."""
    try:
        found = read_json_if_whole(_end(id))
        return None if found is None else Status(**taken(Status, found))
    except (OSError, ValueError, RecursionError):
        return None


def _end(id: str) -> Path:
    return directory() / "ended" / f"{id}.json"


def known() -> list[Submission]:
    """All that are kept, the newest first; files that hold none are passed over, see `flaws`."""
    return _read()[0]


def flaws() -> list[UserError]:
    """What is wrong with files that should hold a submission and do not."""
    return list(_read()[1].values())


def kept(id: str) -> Submission | None:
    """The submission of exactly this id, if this machine made it."""
    found = _submission(directory() / f"{id}.json") if is_id(id) else None
    return found if isinstance(found, Submission) else None


def _read() -> tuple[list[Submission], dict[str, UserError]]:
    found: list[Submission] = []
    wrong: dict[str, UserError] = {}
    try:
        paths = [path for path in sorted(directory().glob("*.json")) if not path.name.startswith(".")]
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(directory()), expected=_FIX) from None
    for path in paths:
        one = _submission(path)
        if isinstance(one, Submission):
            found.append(one)
        elif one:
            wrong[path.stem] = one
    return sorted(found, key=lambda one: (one.submitted, one.id), reverse=True), wrong


def _submission(path: Path) -> Submission | UserError | None:
    """What a file holds, or why it does not; None where there is none."""
    try:
        return Submission.from_data(json.loads(path.read_bytes()), path.stem)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        fix = "what `nml-ray submit` wrote; without it that job is found by --storage"
        return Unreadable(f"holds no submission ({reason})", where=str(path), expected=fix)


def find(id: str) -> Submission:
    """The submission of an id, or of the only one whose id begins so; `last` is the newest.

    Raises:
        UserError: there is none, or several begin so.
    """
    submissions, wrong = _read()
    if not submissions and not wrong:
        fix = "`nml-ray submit`, or --storage with the storage on which one left its record"
        raise UserError("nothing was submitted from this machine yet", where="ID", expected=fix)
    if id == "last" and submissions:
        return submissions[0]
    exact = [one for one in submissions if one.id == id]
    matching = exact or [one for one in submissions if one.id.startswith(id)]
    if len(matching) == 1:
        return matching[0]
    names = [one.id for one in submissions]
    if matching:
        some = ", ".join(one.id for one in matching[:3])
        raise UserError(f"{len(matching)} submissions begin with '{id}'", where="ID", expected=f"one of {some}")
    for name, flaw in wrong.items():
        if name.startswith(id) or id == "last":
            raise flaw
    raise UserError(
        f"no submission '{id}' was made from this machine",
        where="ID",
        expected="an id that `nml-ray list` shows, or --storage with the storage on which it left its record",
        nearest=nearest_name(id, names),
    )
