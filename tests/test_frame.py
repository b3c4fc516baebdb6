"""The frame around the code: the lock, the packages, the job files, the README."""

import configparser
import email
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


def locked() -> dict[str, list[tuple[Requirement, int]]]:
    """The lock's requirements by name, each with the number of its hashes."""
    found: dict[str, list[tuple[Requirement, int]]] = {}
    for block in re.split(r"\n(?=\S)", LOCK.strip()):
        requirement = Requirement(block.split("\\\n")[0].strip())
        found.setdefault(canonicalize_name(requirement.name), []).append((requirement, block.count("--hash=sha256:")))
    return found


def test_the_lock_names_no_address():
    assert not re.search(r"://|--index|--find-links|--extra| @ |\.whl", LOCK)


def test_every_locked_requirement_is_exact_and_has_hashes():
    for name, entries in locked().items():
        for requirement, hashes in entries:
            assert hashes, name
            assert [specifier.operator for specifier in requirement.specifier] == ["=="], name


def test_the_lock_matches_the_project():
    project = PROJECT["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"], *PROJECT["build-system"]["requires"]]
    lock = locked()
    for text in asked:
        requirement = Requirement(text)
        entries = lock[canonicalize_name(requirement.name)]
        for entry, _ in entries:
            version = next(iter(entry.specifier)).version
            assert requirement.specifier.contains(version), f"{text}, but locked is {entry}: run `make lock`"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel and the sdist."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return out


def test_the_wheel_holds_the_package_alone_with_examples_and_notices(built):
    wheel = zipfile.ZipFile(next(built.glob("*.whl")))
    names = set(wheel.namelist())
    info = f"nml_ray-{PROJECT['project']['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == {"nml_ray", info}
    assert not [name for name in names if re.search(r"(^|/)(test_|conftest|__pycache__)", name)]
    for folder in ("jobs", "cluster"):
        for path in (ROOT / folder).rglob("*.yaml"):
            assert wheel.read(f"nml_ray/examples/{path.relative_to(ROOT)}") == path.read_bytes()
    assert {"nml_ray/data/icons/icons.parquet", "nml_ray/data/icons/NOTICE.md", "nml_ray/py.typed"} <= names
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "nml_ray").rglob("*.py")}
    assert sources == {name for name in names if name.endswith(".py")}

    metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0 AND MIT AND ISC AND CC0-1.0 AND CC-BY-4.0"
    assert set(metadata.get_all("License-File")) == {"LICENSE", "nml_ray/data/icons/NOTICE.md"}
    for file in metadata.get_all("License-File"):
        assert wheel.read(f"{info}/licenses/{file}") == (ROOT / file).read_bytes()
    scripts = configparser.ConfigParser()
    scripts.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    assert dict(scripts["console_scripts"]) == {"nml-ray": "nml_ray.cli.main:main"}


def test_the_wheel_brings_the_examples(built, tmp_path):
    zipfile.ZipFile(next(built.glob("*.whl"))).extractall(tmp_path / "site")
    command = [sys.executable, "-m", "nml_ray", "init", "study"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    copied = {path.relative_to(tmp_path / "study") for path in (tmp_path / "study").rglob("*.yaml")}
    assert copied == {
        path.relative_to(ROOT) for folder in ("jobs", "cluster") for path in (ROOT / folder).rglob("*.yaml")
    }
    assert len(done.stdout.splitlines()) == len(copied)


def test_the_notice_names_every_family_of_the_icons():
    from pyarrow import parquet

    notice = (ROOT / "nml_ray/data/icons/NOTICE.md").read_text()
    families = set(
        parquet.read_table(ROOT / "nml_ray/data/icons/icons.parquet", columns=["family"])["family"].to_pylist()
    )
    assert len(families) > 50
    assert [family for family in sorted(families) if family not in notice] == []
    for text in (
        "Permission is hereby granted",
        "Apache License",
        "CC0 1.0 Universal",
        "Attribution 4.0 International",
    ):
        assert text in notice


def test_the_sdist_can_be_worked_with(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {
        "README.md",
        "LICENSE",
        "Makefile",
        "pyproject.toml",
        "requirements.lock",
        "jobs/demo.yaml",
        "tests/test_frame.py",
    }
    assert wanted <= names
    assert not [name for name in names if name.startswith((".venv", "runs/", ".git/"))]


def test_jobs_are_valid_and_say_how_they_are_run():
    from nml_ray.study.job import read_job

    jobs = sorted((ROOT / "jobs").rglob("*.yaml"))
    names = {"demo", "icons", "ratio_sweep", "sweep_random", "pretrain", "extract", "heads_sweep", "clip_icons"}
    assert {path.stem for path in (ROOT / "jobs").glob("*.yaml")} == names
    assert {path.parent.name for path in jobs} == {"jobs", "recipes", "paper"}
    assert len({path.stem for path in jobs}) == len(jobs), "a job is found by its bare name"
    for path in jobs:
        job, _ = read_job(path)
        assert job.name == path.stem
        header = path.read_text().split("\n\n")[0] + path.read_text().split("\n\nname:")[0]
        for words in (f"nml-ray run {path.relative_to(ROOT)}", "# Hardware:", "Time:", "# Result:"):
            assert words in header, f"{path.name} does not say: {words}"


def readme_commands() -> list[list[str]]:
    """The words of every command of the README: indented lines, and inline code that begins with make or nml-ray."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    inline = re.findall(r"`((?:make|nml-ray) [^`]+)`", text)
    return [shlex.split(line, comments=True) for line in [*blocks, *inline]]


def test_every_command_of_the_readme_exists():
    commands = readme_commands()
    assert ["make", "demo"] in commands
    assert ["make", "test"] in commands
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for program, *arguments in commands:
        assert program in ("make", "nml-ray"), program
        if program == "make":
            assert arguments[0] in targets
        else:
            check_command_line(arguments)


def check_command_line(arguments: list[str]) -> None:
    """Read a command line as far as it can be without doing anything: options exist, the job is valid."""
    from nml_ray.cli.main import cli
    from nml_ray.cli.options import open_job

    context = cli.make_context("nml-ray", list(arguments))
    command: click.Command = cli
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None, arguments
        command, context = found, found.make_context(name, rest, parent=context)
    if "assignments" in context.params:
        open_job(context.params["job"], context.params["assignments"], None)


def test_the_examples_of_every_command_exist():
    from nml_ray.cli.main import COMMANDS, cli

    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        assert f"nml-ray {name}" in (command.help or ""), f"{name} shows no example"
