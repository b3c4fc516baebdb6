"""The token of a running cluster: found, checked, and never shown."""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nml_ray.config.errors import UserError

_PRINTABLE = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Token:
    """A secret, and in words where it came from."""

    value: str = field(repr=False)
    source: str


def find_token(token_file: str = "", environment: Mapping[str, str] = os.environ) -> Token | None:
    """The token of a cluster; None where there is none.

    Args:
        token_file: file that holds it, which only this user may read; what Ray's own tools look up when empty:
            RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, ~/.ray/auth_token.
        environment: of this process.

    Raises:
        UserError: a file that is named is not there, is open to others, or holds no token.
    """
    if token_file:
        return _of_private_file(token_file)
    if value := environment.get("RAY_AUTH_TOKEN"):
        return Token(_checked(value, "RAY_AUTH_TOKEN"), "RAY_AUTH_TOKEN")
    if named := environment.get("RAY_AUTH_TOKEN_PATH"):
        return Token(_read(Path(named), "RAY_AUTH_TOKEN_PATH"), named)
    own = Path.home() / ".ray" / "auth_token"
    return Token(_read(own, str(own)), str(own)) if own.is_file() else None


def _of_private_file(text: str) -> Token:
    path = Path(text).expanduser()
    if not path.is_absolute():  # other commands read it later, in other directories
        raise UserError(f"'{text}'", where="token_file", expected="an absolute path, or one that begins with ~/")
    value = _read(path, "token_file")
    about = path.stat()
    if about.st_uid != os.getuid():
        raise UserError(f"'{path}' belongs to somebody else", where="token_file", expected="a file of your own")
    if about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(about.st_mode)
        raise UserError(
            f"'{path}' is open to others (mode {mode:04o})", where="token_file", expected=f"chmod 600 {path}"
        )
    return Token(value, str(path))


def _read(path: Path, where: str) -> str:
    try:
        return _checked(path.read_text(encoding="utf-8"), where, path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text"
        raise UserError(f"'{path}' cannot be read ({reason})", where=where, expected="a file with the token") from None


def _checked(text: str, where: str, path: Path | None = None) -> str:
    value = text.strip()
    if not _PRINTABLE.fullmatch(value):
        found = f"'{path}' holds no token" if path else "holds no token"
        raise UserError(found, where=where, expected="one line of printable characters without spaces")
    return value
