"""Where data lies: a local path, or an object store's `s3://` or `gs://` URL. Plain data; it opens no connection.

A URL takes options as pyarrow does: `s3://bucket/prefix?endpoint_override=host:port&scheme=http&region=eu-west-1`, and
`anonymous=true` for public buckets. Credentials come from the environment (or the machine), never from a URL, which is
shown in messages and kept in records.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, quote, unquote

from nml_ray.config.errors import UserError, nearest_name
from nml_ray.storage.names import flaw_of

OPTIONS = {
    "s3": ("endpoint_override", "scheme", "region", "anonymous"),
    "gs": ("endpoint_override", "scheme", "anonymous"),
}
_VALUES = {"scheme": ("http", "https"), "anonymous": ("true", "false")}
EXPECTED = "a path, or an s3:// or gs:// URL"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_SECRET = re.compile(
    r"(://|\bendpoint_override=)[^/@&\s]*@|([\w-]*(?:secret|token|signature|credential|access_?key(?:_?id)?)[\w-]*=)[^&\s'\"]*",
    re.I,
)


@dataclass(frozen=True)
class Location:
    """A directory or file.

    Attributes:
        scheme: "" (local), "s3" or "gs".
        path: a local path, or bucket and key without a slash at either end.
        options: of a URL, sorted.
    """

    scheme: str
    path: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def remote(self) -> bool:
        """Whether it lies on an object store."""
        return bool(self.scheme)

    @property
    def local(self) -> Path:
        """The path of a local one."""
        assert not self.scheme, self
        return Path(self.path)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name

    @property
    def bucket(self) -> str:
        """The bucket of a remote one."""
        return self.path.partition("/")[0]

    def __truediv__(self, name: str) -> "Location":
        """What lies below it."""
        path = f"{self.path}/{name}" if self.scheme else str(Path(self.path) / name)
        return replace(self, path=path)

    def __str__(self) -> str:
        """As a user would write it."""
        if not self.scheme:
            return self.path
        options = "&".join(f"{name}={quote(value, safe=':/[]')}" for name, value in self.options)
        return f"{self.scheme}://{self.path}" + (f"?{options}" if options else "")


def locate(text: "str | Path | Location", where: str = "") -> Location:
    """The location that a user names.

    Args:
        text: a path or URL.
        where: the flag or setting, for messages.

    Raises:
        UserError: another kind of URL (a `pipe:` would run a shell), options that are unknown, credentials in it.
    """
    if isinstance(text, Location):
        return text
    if isinstance(text, Path):
        mangled = re.match(r"(s3|gs|gcs):/", str(text))
        return Location("", str(text)) if not mangled else locate(str(text).replace(":/", "://", 1), where)
    if text.lower().startswith("pipe:"):
        raise UserError("'pipe:' would run a shell command", where=where, expected=EXPECTED)
    url = _URL.fullmatch(text)
    if url is None:
        if mangled := re.match(r"(s3|gs|gcs):", text):
            raise UserError(
                f"'{redacted(text)}' is no URL", where=where, expected=f"{mangled[1]}://BUCKET/PREFIX or a path"
            )
        return Location("", str(Path(text)))
    scheme, rest = url[1].lower(), url[2]
    if scheme == "file":
        return Location("", str(Path(unquote(rest))))
    scheme = "gs" if scheme == "gcs" else scheme
    if scheme not in OPTIONS:
        raise UserError(
            f"'{scheme}://' cannot be read", where=where, expected=EXPECTED, nearest=nearest_name(scheme, OPTIONS)
        )
    return _remote(scheme, rest, where)


def _remote(scheme: str, rest: str, where: str) -> Location:
    path, _, query = rest.partition("?")
    authority, _, _ = path.partition("/")
    given = parse_qsl(query, keep_blank_values=True)
    if scheme == "gs" and authority.startswith("anonymous@"):
        path, authority = path.removeprefix("anonymous@"), authority.removeprefix("anonymous@")
        given.append(("anonymous", "true"))
    if "@" in authority or any("@" in value or _SECRET.match(f"{name}=") for name, value in given):
        variables = (
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" if scheme == "s3" else "GOOGLE_APPLICATION_CREDENTIALS"
        )
        raise UserError(
            f"{scheme}:// URL with credentials in it, which would be kept in records",
            where=where,
            expected=f"them in the environment ({variables}) or in the provider's own configuration file",
        )
    options = dict(given)
    _check_options(scheme, given, where)
    path = path.strip("/")
    if flaw := flaw_of(path) if path else "names no bucket":
        raise UserError(f"'{scheme}://{path}' {flaw}", where=where, expected=f"{scheme}://BUCKET/PREFIX")
    return Location(scheme, path, tuple(sorted(options.items())))


def _check_options(scheme: str, given: Sequence[tuple[str, str]], where: str) -> None:
    seen = set()
    for name, value in given:
        if name not in OPTIONS[scheme]:
            raise UserError(
                f"option '{name}' of {'an' if scheme == 's3' else 'a'} {scheme}:// URL",
                where=where,
                expected=", ".join(OPTIONS[scheme]),
                nearest=nearest_name(name, OPTIONS[scheme]),
            )
        if name in seen:
            raise UserError(f"option '{name}' comes twice", where=where, expected="each option once")
        seen.add(name)
        if value not in (allowed := _VALUES.get(name, (value,))):
            raise UserError(f"{name}={value}", where=where, expected=" or ".join(allowed))


def redacted(text: str) -> str:
    """A text without the credentials that a URL in it may hold."""
    return _SECRET.sub(lambda found: (found[1] or found[2]) + "...", text)
