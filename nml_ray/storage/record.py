"""The record of an artifact, which anybody may have written or torn who can write to its storage."""

import re
from pathlib import Path
from typing import Any

from nml_ray.config.errors import UserError
from nml_ray.storage.atomic import read_json

RECORD = "record.json"
ATTEMPT = re.compile(r"attempt-[0-9]{1,12}(-[0-9a-f]{1,32})?")


def read_record(directory: Path) -> dict[str, Any] | None:
    """The record of an artifact by its directory; None where it has not been finished.

    Raises:
        UserError: it is torn, or names what is no attempt of this artifact. It is not passed over: the next one to
            finish would find it in the way.
    """
    path = directory / RECORD
    try:
        record = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise no_record(error, str(path)) from None
    if record is None:
        return None
    found = checked(record, str(path))
    if (directory / found["attempt"]).is_symlink():
        raise no_record(ValueError("its attempt is a link"), str(path))
    return found


def checked(record: Any, where: str) -> dict[str, Any]:
    """What a record's file holds, if that is one.

    Raises:
        UserError: it is not.
    """
    try:
        attempt, inputs = record["attempt"], record.get("inputs", {}).items()
        if not ATTEMPT.fullmatch(attempt):
            raise ValueError(f"attempt = {attempt[:40]!r}")
        if not all(isinstance(text, str) for pair in inputs for text in pair):
            raise ValueError("inputs that are no names")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise no_record(error, where) from None
    return dict(record)


def no_record(error: Exception, where: str) -> UserError:
    """What is told of a file that is no record."""
    why = " ".join(str(error).split())[:80]
    expected = "what nml-ray wrote; remove the file and the artifact is made anew"
    return UserError(f"is no record of an artifact ({why})", where=where, expected=expected)
