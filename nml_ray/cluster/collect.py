"""Which files travel with a job: the code of a directory, this package, the job file. What cannot is refused here."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nml_ray
from nml_ray.cluster.config import CodeSettings
from nml_ray.cluster.ignore import Rules, no_code
from nml_ray.cluster.package import CodeFile, Package
from nml_ray.cluster.secret_files import secret
from nml_ray.config.errors import UserError
from nml_ray.storage.shard_cache import size_of, size_text

MOST_FILES = 20_000
OUTSIDE = "submitted"  # folder of a job file that lies outside of the directory
_PACKAGE = "nml_ray"
_ROWS = 10
_DOMINANT = 0.8  # share of a directory that one thing in it has, for that thing to be named in its place


@dataclass(frozen=True)
class Collected:
    """What is sent, and the job file's name in it."""

    package: Package
    job: str


@dataclass
class _Walk:
    """One pass over a directory."""

    root: Path
    leave: Sequence[Path]
    rules: Rules
    files: list[CodeFile] = field(default_factory=list)
    known: dict[tuple[str, ...], Rules | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.real_root = Path(os.path.realpath(self.root))

    def run(self) -> list[CodeFile]:
        self.directory(self.root, (), self.rules, ())
        return self.files

    def directory(self, path: Path, parts: tuple[str, ...], rules: Rules, above: tuple[str, ...]) -> None:
        real = os.path.realpath(path)
        linked = Path(real) != self.real_root.joinpath(*parts)
        rules = rules.below(path, len(parts))
        for entry in sorted(_scan(path), key=lambda entry: entry.name):
            inside = (*parts, entry.name)
            is_directory = _is_directory(entry)
            if rules.leave(inside, is_directory):
                continue
            at = Path(entry.path)
            if entry.is_symlink():
                self.refuse_link(at, inside)
            own = self.real_parts(at) if linked or entry.is_symlink() else inside
            if own != inside and self.stays(own, is_directory):
                continue
            if is_directory:
                target = os.path.realpath(at)
                if target in (*above, real) or Path(target) in self.leave or no_code(at):
                    continue
                self.directory(at, inside, rules, (*above, real))
            elif at.is_file():
                self.file(at, inside, own, at.stat().st_size)

    def file(self, path: Path, parts: tuple[str, ...], own: tuple[str, ...], size: int) -> None:
        if not (name := "/".join(parts)).isprintable():
            raise UserError(f"the name {name!a} cannot travel", where=str(self.root), expected="printable characters")
        _refuse_secret(path, parts, own)
        self.files.append(CodeFile(name, path, size))
        if len(self.files) > MOST_FILES:
            raise _too_much(f"more than {MOST_FILES:,} files would be sent", str(self.root), self.files, count=True)

    def real_parts(self, path: Path) -> tuple[str, ...]:
        """Of the path below the top that a link leads to."""
        return Path(os.path.realpath(path)).relative_to(self.real_root).parts

    def stays(self, parts: tuple[str, ...], is_directory: bool) -> bool:
        """Whether what a link leads to stays behind where it lies itself: a link is no way around the rules."""
        if is_directory or not parts:
            return self.original(parts) is None
        rules = self.original(parts[:-1])
        return rules is None or rules.leave(parts, is_directory)

    def original(self, parts: tuple[str, ...]) -> Rules | None:
        """The rules inside a directory that a link leads to, where it lies itself; None where it stays behind."""
        if parts not in self.known:
            at, rules = self.real_root.joinpath(*parts), self.original(parts[:-1]) if parts else self.rules
            if parts and rules and (rules.leave(parts, True) or at in self.leave or no_code(at)):
                rules = None
            self.known[parts] = rules and rules.below(at, len(parts))
        return self.known[parts]

    def refuse_link(self, path: Path, parts: tuple[str, ...]) -> None:
        target = Path(os.path.realpath(path))
        if not target.is_relative_to(self.real_root):
            raise UserError(
                f"'{'/'.join(parts)}' is a link to {os.readlink(path)}, outside of what is sent",
                where=str(self.root),
                expected="it to be named in .nmlignore; what a job reads from elsewhere it names by its own path",
            )


def collect(code: CodeSettings, job: Path, leave: Sequence[Path] = ()) -> Collected:
    """The package of a submission.

    Args:
        code: which directory, what stays behind, how much it may be.
        job: the job file, which travels in any case.
        leave: directories that stay behind, such as the storage.

    Raises:
        UserError: the directory is none; a file that looks like a secret; a link that leads outside; more than allowed.
    """
    root = Path(os.path.expanduser(code.directory)).absolute()
    if not root.is_dir():
        raise UserError("is no directory", where=f"code.directory: {code.directory}", expected="one with your code")
    most = size_of(code.limit, "code.limit")
    real_leave = [Path(os.path.realpath(path)) for path in leave]
    walk = _Walk(root, real_leave, Rules.of(code.exclude))
    found = {file.name: file for file in walk.run()}
    if f"{_PACKAGE}/__init__.py" not in found:
        found = {name: file for name, file in found.items() if not name.startswith(f"{_PACKAGE}/")}
        found |= {file.name: file for file in _own_files()}
    name = _job_name(root, job, found)
    found.setdefault(name, CodeFile(name, job, job.stat().st_size))
    package = Package([found[name] for name in sorted(found)])
    if package.size > most:
        found_words = f"{size_text(package.size)} in {len(package.files):,} files would be sent, more than {code.limit}"
        raise _too_much(found_words, str(root), package.files)
    return Collected(package, name)


def _job_name(root: Path, job: Path, found: dict[str, CodeFile]) -> str:
    at = Path(os.path.realpath(job))
    real_root = Path(os.path.realpath(root))
    if at.is_relative_to(real_root):
        return at.relative_to(real_root).as_posix()
    name = f"{OUTSIDE}/{job.name}"
    if name in found:
        raise UserError(
            f"'{name}' is there already", where=str(root), expected=f"another name than '{OUTSIDE}' for that directory"
        )
    return name


def _own_files() -> Iterator[CodeFile]:
    top = Path(nml_ray.__path__[0])
    for file in sorted(top.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            yield CodeFile(f"{_PACKAGE}/{file.relative_to(top).as_posix()}", file, file.stat().st_size)


def _scan(path: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror})", where=str(path), expected="it to be named in .nmlignore"
        ) from None


def _is_directory(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _refuse_secret(path: Path, parts: tuple[str, ...], own: tuple[str, ...]) -> None:
    """`own`: of the path of what a link leads to."""
    try:
        kind = secret(parts, path) or (secret(own, path) if own != parts else "")
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror})", where=str(path), expected="it to be named in .nmlignore"
        ) from None
    if kind:
        raise UserError(
            f"looks like {kind}, which is never sent",
            where=str(path),
            expected=f"a line '/{'/'.join(parts)}' in .nmlignore; secrets reach a job through its cluster's own means",
        )


def _too_much(found: str, where: str, files: Sequence[CodeFile], count: bool = False) -> UserError:
    rows = "\n".join(f"  {row}" for row in largest(files, count))
    fix = "less: name in .nmlignore what is no code; data is read where it lies, by path or URL"
    return UserError(found, where=where, expected=f"{fix}. The largest:\n{rows}")


def largest(files: Sequence[CodeFile], count: bool = False) -> list[str]:
    """Lines of the ten largest things that would be sent: directories with all that is in them, or files.

    Of a directory that is nearly all one thing, that thing is named. By number of files instead of bytes with `count`.
    """
    sums: dict[str, tuple[int, int]] = {}
    below: dict[str, set[str]] = {}
    for file in files:
        path = file.name
        sums[path] = (file.size, 1)
        while path:
            above = path.rpartition("/")[0]
            below.setdefault(above, set()).add(path)
            size, number = sums.get(above, (0, 0))
            sums[above] = (size + file.size, number + 1)
            path = above
    weight = {name: number if count else size for name, (size, number) in sums.items()}

    def named(name: str) -> str:
        for child in below.get(name, ()):
            if weight[child] >= _DOMINANT * weight[name] and not (count and child not in below):
                return named(child)
        return name

    top = sorted({named(child) for child in below.get("", ())}, key=lambda name: (-weight[name], name))[:_ROWS]
    return [
        f"{size_text(sums[name][0]):>8}  {name}" + (f"/ ({sums[name][1]:,} files)" if name in below else "")
        for name in top
    ]
