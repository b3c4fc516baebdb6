"""Errors that pass: what is tried again, how long, and what is told when it does not pass."""

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from nml_ray.config.errors import UserError
from nml_ray.storage.location import redacted

Result = TypeVar("Result")

_NOT_THERE = "is not there"
_NO_RIGHTS = "cannot be reached with these credentials"
_LASTING = {  # what no second try mends, by the codes and words of object stores
    "does not exist": ("no_such_bucket", "no such bucket", "notfound: bucket", "specified bucket does not exist"),
    _NO_RIGHTS: (
        *("access_denied", "forbidden", "status 403", "invalid_access_key", "signature", "unrecognized_client"),
        *("invalid_client_token", "expired_token", "permission denied", "permission_denied", "unauthenticated"),
        *("status 401", "missing_authentication", "access denied", "incomplete_signature"),
    ),
    "lies in another region": ("permanent_redirect", "status 301", "authorization_header_malformed"),
    _NOT_THERE: ("no_such_key", "status 404", "not found", "not_found", "does not exist"),
}
_PASSING = re.compile(
    r"network_connection|slow_down|throttling|internal_(?:failure|error)|service_unavailable|request_timeout|unavailable"
    r"|deadline_exceeded|internal\b|resource_exhausted|aborted|.*\bstatus 5\d\d\b"
)
_OWN = re.compile(  # where the service's own words begin, with its code
    r"AWS Error (?=\w+(?: \(HTTP status \d+\))? during \w+ operation)|google::cloud::Status\((?=\w+: )"
)
_FIX = {
    "does not exist": "a bucket that exists",
    _NOT_THERE: "an object that exists",
    _NO_RIGHTS: "credentials with the right to it in the environment",
    "lies in another region": "?region=... of the bucket",
}


class NotThere(UserError):
    """There is no such object."""


class NoAccess(UserError):
    """Not from here, or not with these rights: another machine may have both."""


_KINDS = {_NOT_THERE: NotThere, _NO_RIGHTS: NoAccess}


class Incomplete(OSError):
    """Less came than was promised; trying again may mend it."""


@dataclass(frozen=True)
class Patience:
    """How long passing errors are tried again: pauses double from `first` to `most` seconds, with jitter, `total`
    seconds in all from the first failure of a piece of work. A try counts as failed after `connect` seconds without a
    connection, or `silence` seconds without a byte."""

    first: float = 0.2
    most: float = 20.0
    total: float = 300.0
    connect: float = 10.0
    silence: float = 20.0


PATIENCE = Patience()
QUICK = Patience(total=15.0)
"""For the first look at a data set, and for what is tried again anyway."""
PLANNING = Patience(total=5.0, connect=5.0, silence=7.0)
"""For a user who waits: about 15 seconds until a server that is silent is told of."""


@contextmanager
def at_most(patience: Patience) -> Iterator[None]:
    """Inside, no piece of work of this process is tried for longer, whatever it asks for. Not for running stages."""
    global PATIENCE
    before = PATIENCE
    PATIENCE = min(before, patience, key=lambda one: one.total)
    try:
        yield
    finally:
        PATIENCE = before


def limits() -> tuple[float, float]:
    """Seconds without a connection, and without a byte, after which a try has failed."""
    return PATIENCE.connect, PATIENCE.silence


def persistent(
    action: Callable[[], Result], where: str, patience: Patience | None = None, check: Callable[[], None] = lambda: None
) -> Result:
    """The result of an action on an object store, tried again while its errors may pass.

    Args:
        action: repeatable.
        where: the URL, for messages.
        patience: how long.
        check: called twice a second between two tries; what it raises is raised here.

    Raises:
        UserError: it lasted too long, or cannot pass (no such object, access denied, a name or option that pyarrow
            does not take).
    """
    import pyarrow as pa

    patience = patience if patience and patience.total <= PATIENCE.total else PATIENCE
    began = tries = 0.0
    while True:
        try:
            return action()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise UserError(
                f"cannot be asked for ({reason(error)})", where=where, expected="a URL that the object store can serve"
            ) from None
        except OSError as error:
            told = lasting(error, where)
            if told is not None:
                raise told from None
            now = time.monotonic()
            began = began or now
            pause = min(patience.most, patience.first * 2**tries) * random.Random().uniform(0.5, 1.0)
            tries += 1
            if now - began + pause > patience.total:
                raise NoAccess(
                    f"cannot be reached, tried {tries:.0f} times in {now - began:.0f} s ({reason(error)})",
                    where=where,
                    expected="a server that answers; what was finished is kept",
                ) from None
        _sleep(pause, check)


def _sleep(seconds: float, check: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        check()
        time.sleep(min(left, 0.5))


def lasting(error: OSError, where: str) -> UserError | None:
    """What is told at once of an error that does not pass; None where it may. Names of objects decide nothing."""
    if isinstance(error, Incomplete):
        return None
    code, words = _said(str(error))
    if _PASSING.match(code):
        return None
    for text in (code, words):
        for found, signs in _LASTING.items():
            if any(sign in text for sign in signs):
                kind = _KINDS.get(found, UserError)
                return kind(f"{found} ({reason(error)})", where=where, expected=_FIX[found])
    if isinstance(error, FileNotFoundError):
        return NotThere(_NOT_THERE, where=where, expected=_FIX[_NOT_THERE])
    return None


def _said(text: str) -> tuple[str, str]:
    """The code (with the HTTP status) and the words of the service in an error of pyarrow's, in lower case.

    Pyarrow puts the names of bucket and object in quotes before them.
    """
    if marks := list(_OWN.finditer(text)):
        own = text[marks[-1].end() :].lower()
        code = re.match(r"\w+(?: \(http status \d+\))?", own)
        assert code
        return code[0], re.sub(r"'[^']*'", "", own)
    return "", re.sub(r"'.*'", "", text, flags=re.DOTALL).lower()


def reason(error: BaseException) -> str:
    """An error in one line, without credentials and request numbers."""
    text = " ".join(redacted(str(error)).split())
    text = re.sub(r"\s*\(Request ID: [^)]*\)|\[Errno \d+\] |\. Detail: .*$", "", text)
    return text[:300] or type(error).__name__
