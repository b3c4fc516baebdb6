"""What stays behind when code is sent: the rules of .gitignore and .nmlignore files, and what is nobody's code."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pathspec

from nml_ray.config.errors import UserError

FILES = (".gitignore", ".nmlignore")  # the later one has the last word
_NEVER = {".git", ".hg", ".svn", ".jj"}
_CACHES = {
    *("__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".ipynb_checkpoints", ".cache"),
    *(".tox", ".nox", "node_modules", ".DS_Store"),
}
_ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")  # what a virtual environment has in it
_CACHE_TAG = "CACHEDIR.TAG"  # https://bford.info/cachedir/


@dataclass(frozen=True)
class Rules:
    """The ignore files from the top down to one directory, as Git reads them: of the patterns that match a name, the
    last one of the deepest file counts, and nothing comes back from a directory that stays behind.

    Attributes:
        levels: depth of each file's directory (0: the top), and its patterns.
        always: patterns that no file can take back.
    """

    always: pathspec.GitIgnoreSpec
    levels: Sequence[tuple[int, pathspec.GitIgnoreSpec]] = ()

    @classmethod
    def of(cls, exclude: Sequence[str]) -> "Rules":
        """The rules before any file is read.

        Raises:
            UserError: a pattern that is none.
        """
        return cls(_spec(exclude, "code.exclude"))

    def below(self, directory: Path, depth: int) -> "Rules":
        """The rules inside a directory."""
        lines = [line for name in FILES for line in _lines(directory / name)]
        if not lines:
            return self
        where = " or ".join(str(directory / name) for name in FILES if (directory / name).is_file())
        return replace(self, levels=(*self.levels, (depth, _spec(lines, where))))

    def leave(self, parts: Sequence[str], is_directory: bool) -> bool:
        """Whether what has these parts of a path below the top stays behind."""
        name = parts[-1]
        if name in _NEVER or name in _CACHES or name.endswith((".pyc", ".pyo")):
            return True
        slash = "/" if is_directory else ""
        if self.always.check_file("/".join(parts) + slash).include:
            return True
        for depth, spec in reversed(self.levels):
            verdict = spec.check_file("/".join(parts[depth:]) + slash).include
            if verdict is not None:
                return verdict
        return False


def no_code(directory: Path) -> bool:
    """Whether a directory is a virtual environment, a cache, or a storage of artifacts."""
    return (
        any((directory / name).exists() for name in (*_ENVIRONMENTS, _CACHE_TAG))
        or next(directory.glob("studies/*/job.yaml"), None) is not None
    )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if path.is_file() else []
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from None


def _spec(lines: Sequence[str], where: str) -> pathspec.GitIgnoreSpec:
    try:
        return pathspec.GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise UserError(f"{error}", where=where, expected="patterns as in a .gitignore") from None
