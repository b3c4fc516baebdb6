"""The documentation: its commands are run as they stand there, its links lead somewhere, its reference is the code's.

A page is gone through from its top in a directory such as a reader has; work is made small and goes without Ray. What
is submitted to this machine is submitted; for other clusters, which are not here, what would be sent is rendered.
"""

import contextlib
import itertools
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import jsonschema
import pytest
import yaml

from docs import generate
from nml_ray.cli.main import call, cli
from nml_ray.cli.options import find_cluster, find_job
from nml_ray.cli.schema import cluster_schema, job_schema, task_schema
from nml_ray.cluster import registry
from nml_ray.cluster.ask import standing
from nml_ray.cluster.config import read_cluster
from nml_ray.features import given
from nml_ray.study.job import read_job
from tests.newcomer import downloads
from tests.object_store import Bucket, make_bucket
from tests.small_icons import small_icons
from tests.submitted import code_directory, until

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MEASUREMENTS = ROOT / "benchmarks/README.md"
TEXTS = [ROOT / "README.md", MEASUREMENTS, *sorted(DOCS.rglob("*.md"))]
PAGES = [path for path in TEXTS[2:] if path.parent != generate.REFERENCE]
OF_A_JOB = ("run", "plan", "submit", "ledger", "doctor")
OF_SUBMISSIONS = ("list", "status", "logs", "stop")
BUCKETS = ("bucket", "my-bucket")  # of the pages and of the example files
STOPPED = 130


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, *languages: str) -> list[tuple[str, str]]:
    """Blocks of a page in these languages: language and text, in their order."""
    found = re.findall(r"^ *```(\w+)\n(.*?)^ *```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [(language, text) for language, text in found if language in languages]


def shell_lines(path: Path) -> list[str]:
    """The lines of a page's shell blocks."""
    return [line.strip() for _, text in blocks(path, "sh") for line in text.splitlines() if line.strip()]


def words_of(line: str) -> list[str]:
    """A line of a shell block as words after the first; none where it is not `nml-ray`."""
    return shlex.split(line.partition(" > ")[0], comments=True)[1:] if line.startswith("nml-ray ") else []


def commands(path: Path) -> list[list[str]]:
    """Every `nml-ray` line of a page."""
    return [words for line in shell_lines(path) if (words := words_of(line))]


def steps(path: Path) -> list[list[str] | str]:
    """What a reader of a page does, in order: commands as words, programs in Python as text."""
    found: list[list[str] | str] = []
    for language, text in blocks(path, "sh", "python"):
        lines = [words_of(line.strip()) for line in text.splitlines()]
        found += [text] if language == "python" else [words for words in lines if words]
    return found


def examples() -> Iterator[list[str]]:
    """Every example of the reference of commands: what helps say beside a command, after blanks, is no part of it."""
    for line in re.findall(r"^    (nml-ray .*)$", (generate.REFERENCE / "commands.md").read_text(), re.MULTILINE):
        if not re.search(r"\[OPTIONS\]|\{job\|", line):
            for part in re.split(r" && ", re.split(r"  +| > ", line)[0]):
                yield shlex.split(part)[1:]


def parsed(words: list[str]) -> None:
    """What click says of a command line; nothing is run."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words:
        name, *words = words
        found = command.get_command(context, name)
        assert found, f"no command {name}"
        command = found
    command.make_context("nml-ray", list(words))


def test_the_reference_is_what_the_code_says():
    there = {path.name: path.read_text(encoding="utf-8") for path in generate.REFERENCE.iterdir()}
    pages = generate.pages()
    assert set(there) == set(pages)
    old = [name for name, text in pages.items() if there[name] != text]
    assert not old, f"docs/reference: {', '.join(old)} are older than the code: make docs"


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        found = (path.parent / target).resolve() if target else path
        assert found.exists(), f"{target} is not there"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(generate.anchor, titles), f"{target} has no heading #{anchor}"


def test_every_page_is_on_the_map_and_says_what_it_is_for():
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    for path in PAGES[1:]:
        assert f"({path.relative_to(DOCS).as_posix()})" in text
        first = path.read_text(encoding="utf-8").split("\n\n")[1]
        assert first.startswith(("What this page is for", "How to", "What to do", "This page"))


def test_every_example_file_is_mentioned():
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    shipped = [*(ROOT / "jobs").rglob("*.yaml"), *(ROOT / "cluster").glob("*.yaml")]
    assert len(shipped) > 20
    assert [name for name in map(name_of, shipped) if f"/{name})" not in text] == []


def test_every_measurement_and_its_result_are_in_their_index():
    text = MEASUREMENTS.read_text(encoding="utf-8")
    there = [*MEASUREMENTS.parent.glob("*.py"), *MEASUREMENTS.parent.glob("results/*.md")]
    assert len(there) > 40
    assert [path.name for path in there if f"({path.relative_to(MEASUREMENTS.parent).as_posix()})" not in text] == []


def test_what_is_shown_of_files_is_what_they_may_hold():
    job, cluster, task = (
        jsonschema.Draft202012Validator(schema()) for schema in (job_schema, cluster_schema, task_schema)
    )
    found = [yaml.safe_load(text) for path in TEXTS for _, text in blocks(path, "yaml")]
    shown = [part for part in found if part]
    assert len(shown) > 5
    for part in shown:
        if "train" in part:
            task.validate(part)
        elif "kind" in part:
            cluster.validate(part)
        else:
            job.validate({"name": "a", **part})


def test_every_kind_of_file_of_features_is_on_its_page():
    page = (generate.REFERENCE / "job.md").read_text(encoding="utf-8").partition("## Files of features")[2]
    assert len(kinds := re.findall(r"\.\w+", given.KINDS)) > 6
    assert [kind for kind in kinds if kind not in page] == []


def test_what_is_typed_is_nml_ray_or_a_target_of_make():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for path in PAGES:
        for line in shell_lines(path):
            assert line.startswith("nml-ray ") or line.removeprefix("make ") in targets, f"{name_of(path)}: {line}"


def test_every_command_line_parses():
    lines = [line for path in PAGES for line in commands(path)]
    shown = list(examples())
    assert len(lines) > 40
    assert len(shown) > 40
    for line in (*lines, *shown):
        parsed(line)


def test_every_command_in_passing_is_one():
    for path in TEXTS:
        for span in re.findall(r"`nml-ray ([^`]+)`", path.read_text(encoding="utf-8")):
            words = shlex.split(span)
            if not words[0].isupper() and words != ["--help"]:
                with contextlib.suppress(click.MissingParameter):
                    parsed(words)


@pytest.fixture(scope="module")
def icons(tmp_path_factory) -> Path:
    """A cut of the icons, a directory for each split."""
    root: Path = tmp_path_factory.mktemp("icons")
    small_icons(root)
    return root


@pytest.fixture
def reader(tmp_path, monkeypatch, icons, bucket: Bucket) -> None:
    """A directory with the example files, photos, a set as distributed, features, weights and shards; and buckets."""
    for name in BUCKETS:
        make_bucket(bucket.endpoint, name)
    place = tmp_path / "place"
    for examples in ("jobs", "cluster"):
        shutil.copytree(ROOT / examples, place / examples)
    shutil.copy(ROOT / "cluster/address.yaml", place / "lab.yaml")
    shutil.copytree(icons, place / "data")
    code_directory(place / "features")
    downloads(place)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(place)


def weights(path: Path) -> None:
    """Of the encoder that a page has weights of."""
    import timm
    from safetensors.torch import save_file

    path.parent.mkdir()
    save_file(timm.create_model("resnet18").state_dict(), path)


def small(words: list[str]) -> list[str]:
    """The settings that make a job's work small, whatever job it is."""
    given = tuple(after for word, after in itertools.pairwise(words) if word == "--set")
    job, _ = read_job(find_job(words[1]), given)
    settings = ["threads=1"]
    if job.data and job.data.icons:
        splits = ("pretrain", "train", "validation", "test", "ood")
        settings.append(f"data={{shards: {{{', '.join(f'{split}: data/{split}' for split in splits)}}}}}")
    if job.pretrain:
        settings += ["pretrain.epochs=1", f"pretrain.batch={128 if job.data and job.data.icons else 8}"]
        settings += ["pretrain.encoder.width=2"] * (job.pretrain.encoder.name == "small_resnet")
    if job.heads:
        settings.append("heads.seeds=[0]")
    if job.sweep and job.sweep.trials:
        settings.append("sweep.trials=2")
    return [word for setting in settings for word in ("--set", setting)]


def kind_of(cluster: str) -> str:
    return read_cluster(find_cluster(cluster))[0].kind


def elsewhere(words: list[str]) -> str:
    """The cluster that a command names, where it is another than this machine."""
    cluster = words[words.index("--cluster") + 1] if "--cluster" in words else "local"
    return "" if kind_of(cluster) == "local" else cluster


def as_run(words: list[str]) -> list[str] | None:
    """The command that is run here for one of a page; None for what takes a cluster that is not here."""
    name = words[0]
    if name in OF_SUBMISSIONS:
        return words if registry.known() or "--storage" in words else None
    if name == "submit" and (cluster := elsewhere(words)):
        job, *rest = [word for word in words[1:] if word not in ("--cluster", cluster, "--follow")]
        return ["cluster", "render", cluster, job, *rest]
    if name == "cluster" and words[1] != "render" and kind_of(words[2]) != "local":
        return None
    if name in OF_A_JOB:
        inline = ["--inline"] * (name in ("run", "submit"))
        own = elsewhere(words) and read_cluster(Path(elsewhere(words)))[0].storage
        shared = ["--storage", str(Path("shared").absolute())] if str(own).startswith("/shared/") else []
        return [*words, *small(words), *inline, *shared]
    return words


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("path", [path for path in PAGES if steps(path)], ids=name_of)
def test_every_command_of_a_page(path, capsys):
    if path.name == "own_encoder.md":
        weights(Path("weights/resnet18.safetensors"))
    stopped, names = False, dict[str, object]()
    for words in steps(path):
        if isinstance(words, str):
            exec(words, names)
            continue
        if (run := as_run(words)) is None:
            parsed(words)
            continue
        code = call(run)
        said = capsys.readouterr()
        if words[0] == "plan" and (cluster := elsewhere(words)):
            assert (code, call(["cluster", "status", cluster])) == (2, 2), said.err
            assert capsys.readouterr().err == said.err, "all is right but that the cluster is not here"
            continue
        stopped = words[0] == "stop" or (stopped and words[0] != "submit")
        fine = (0, STOPPED) if stopped and words[0] == "logs" else (0,)
        assert code in fine, f"nml-ray {shlex.join(words)}: {code}, {said.out[-2000:]} {said.err}"
    until(lambda: all(standing(submission).status.ended for submission in registry.known()))
