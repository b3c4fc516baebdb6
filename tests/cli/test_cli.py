import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import jsonschema
import pytest
import yaml

from nml_ray.cli.main import COMMANDS, call
from nml_ray.cli.options import examples
from nml_ray.config.document import load
from nml_ray.tasks.find import shipped as shipped_tasks

LEDGER = """
name: tiny
data:
  shards: {{pretrain: {root}/tars}}
noise:
  ratios: [0, 0.25]
"""


def write_tars(directory: Path) -> None:
    directory.mkdir()
    with tarfile.open(directory / "a.tar", "w") as tar:
        for number in range(20):
            for extension, content in (("png", b"image %d" % number), ("cls", b"%d" % (number % 4))):
                member = tarfile.TarInfo(f"sample-{number:02d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tars(tmp_path / "tars")
    (tmp_path / "job.yaml").write_text(LEDGER.format(root=tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", [*COMMANDS, "data index"])
def test_every_command_shows_an_example_of_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    assert f"nml-ray {command}" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--version"]) == 0
    assert capsys.readouterr().out.startswith("nml-ray, version ")


def test_ledger_from_bare_tars(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["ledger", "job.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("symmetric-0: 0 of 20 labels changed (0.0000%)")
    assert lines[1].startswith("symmetric-0.25: 5 of 20 labels changed (25.0000%)")
    assert Path(lines[1].split()[-1]).exists()
    stages = json.loads((tiny / "runs/studies/tiny/stages.json").read_text())
    assert set(stages) == {"shards/pretrain", "ledger/symmetric-0", "ledger/symmetric-0.25"}


def test_plan_tells_cached_from_to_do_and_adding_a_ratio_adds_one_stage(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["plan", "job.yaml"]) == 0
    assert "3 stages: 1 given, 2 to do" in capsys.readouterr().out
    assert call(["run", "job.yaml", "--inline"]) == 0
    assert call(["plan", "job.yaml", "--set", "noise.ratios=[0,0.25,0.5]"]) == 0
    out = capsys.readouterr().out
    assert "4 stages: 1 given, 2 cached, 1 to do" in out
    assert "to do   ledger/" in next(line for line in out.splitlines() if line.startswith("ledger/symmetric-0.5"))


def test_the_run_keeps_the_job_as_it_was_understood(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", "job.yaml", "--set", "noise.seed=7", "--inline", "--storage", "else where"]) == 0
    capsys.readouterr()
    assert call(["plan", "else where/studies/tiny/job.yaml"]) == 0
    assert "3 stages: 1 given, 2 cached" in capsys.readouterr().out


def test_a_second_run_makes_nothing(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", "job.yaml", "--inline"]) == 0
    attempts = sorted(tiny.glob("runs/*/*/attempt-*"))
    assert call(["run", "job.yaml", "--inline"]) == 0
    assert sorted(tiny.glob("runs/*/*/attempt-*")) == attempts
    assert "3 artifacts, listed in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "dmeo"], "JOB: no file 'dmeo' and no shipped job of that name"),
        (["run", "none.yaml"], "none.yaml: there is no such file"),
        (["run", "job.yaml", "--set", "nois.seed=1"], "--set nois.seed=1: unknown key 'nois'"),
        (
            ["run", "job.yaml", "--set", "noise.ratios=[1e-1]"],
            "--set noise.ratios=[1e-1]: noise.ratios.0 = 1e-1: a ratio",
        ),
        (["run", "job.yaml", "--until", "pretrane"], "--until: no stage 'pretrane' in this job"),
        (
            ["plan", "job.yaml", "--set", "data.shards.pretrain=nowhere"],
            "data.shards.pretrain: 'nowhere' is no directory",
        ),
        (["data", "index", "nowhere"], "DIR: 'nowhere' is no directory"),
        (["report", "nothing"], "RUN: no study 'nothing'"),
    ],
)
def test_mistakes_are_one_line_and_code_2(
    tiny: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert call(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"nml-ray: {message}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [["run"], ["run", "job.yaml", "--inlin"], ["schema", "x"]])
def test_wrong_usage_is_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(arguments) == 2
    assert "Usage:" in capsys.readouterr().err


def test_a_misspelt_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["rnu"]) == 2
    assert "did you mean 'run'?" in capsys.readouterr().err


def test_a_failure_of_the_work_is_code_1_and_names_stage_and_traceback(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nml_ray.study.stages import ledger

    def explode(tasks: object, context: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(ledger, "run", explode)
    assert call(["run", "job.yaml", "--inline"]) == 1
    error = capsys.readouterr().err
    assert "failed: ledger/symmetric-0: OSError: disk full\n  traceback: " in error
    log = Path(error.split("traceback: ")[1].splitlines()[0])
    assert "in explode" in log.read_text()


def test_an_interrupt_says_that_work_is_kept(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nml_ray.study.stages import ledger

    def interrupt(tasks: object, context: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger, "run", interrupt)
    assert call(["run", "job.yaml", "--inline"]) == 130
    assert "what was finished is kept" in capsys.readouterr().err
    assert not list(tiny.glob("runs/*/*/lease.json"))


def test_an_interrupt_of_what_runs_no_study_promises_nothing(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nml_ray.study import execute

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "plan_job", interrupt)
    assert call(["plan", "job.yaml"]) == 130
    assert capsys.readouterr().err.strip() == "nml-ray: stopped"


def test_a_job_without_stages_is_planned_as_it_runs(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "none.yaml").write_text("name: none\ntitle: Nothing\n")
    assert call(["plan", "none.yaml"]) == 0
    assert capsys.readouterr().out.startswith("0 stages: the job asks for none (storage: ")


def test_schema_is_json_with_descriptions(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["schema", "job"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"]["threads"]["description"].startswith("Threads of every process")


def test_the_schema_of_job_files_takes_every_shipped_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["schema", "job"]) == 0
    validator = jsonschema.Draft202012Validator(json.loads(capsys.readouterr().out))
    for path in sorted(examples("jobs").rglob("*.yaml")):
        validator.validate(load(path).data)
    assert validator.is_valid({"name": "a", "pretrain": {"order": "lanes", "loss": "bce"}})
    assert not validator.is_valid({"name": "a", "pretrain": {"order": "lane"}})
    assert not validator.is_valid({"name": "a", "noise": {"ratios": [2]}})


def test_the_schema_of_task_files_takes_every_shipped_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["schema", "task"]) == 0
    validator = jsonschema.Draft202012Validator(json.loads(capsys.readouterr().out))
    assert len(shipped_tasks()) > 25
    for path in shipped_tasks().values():
        validator.validate(load(path).data)
    short = {"name": "a", "train": "a/train", "test": {"cut": 0.2}, "ood": {"b": "b/test"}}
    assert validator.is_valid(short)
    assert not validator.is_valid({**short, "test": {"cutt": 0.2}})
    assert not validator.is_valid({**short, "metric": "acuracy"})


def test_index_reports_what_it_found(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "names.txt").write_text("a\nb\nc\nd\n")
    assert call(["data", "index", "tars", "--classes", "names.txt", "--licence", "CC0-1.0"]) == 0
    assert capsys.readouterr().out.startswith("20 samples, 4 classes, 1 tars")
    assert json.loads((tiny / "tars" / "dataset.json").read_text())["licence"] == "CC0-1.0"


def test_init_copies_every_example_and_keeps_what_is_there(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["init", "study"]) == 0
    shipped = sorted(str(path.relative_to(examples("jobs"))) for path in examples("jobs").rglob("*.yaml"))
    made = (path for path in (tiny / "study" / "jobs").rglob("*") if path.is_file())
    assert sorted(str(path.relative_to(tiny / "study" / "jobs")) for path in made) == shipped
    assert {"demo.yaml", "recipes/a2.yaml", "paper/paper_in1k.yaml"} <= set(shipped)
    assert call(["init", "study"]) == 0
    (tiny / "study" / "jobs" / shipped[0]).write_text("mine")
    assert call(["init", "study"]) == 2
    assert (tiny / "study" / "jobs" / shipped[0]).read_text() == "mine"
    assert call(["init", "study", "--force"]) == 0


@pytest.mark.parametrize("directory", ["/proc/x", "job.yaml", "job.yaml/deeper"])
def test_init_where_nothing_can_be_written_says_so(
    tiny: Path, capsys: pytest.CaptureFixture[str], directory: str
) -> None:
    assert call(["init", directory]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"nml-ray: {directory}")
    assert "cannot be written (" in error
    assert error.count("\n") == 1


def test_a_cached_run_imports_neither_torch_nor_ray(tiny: Path) -> None:
    assert call(["run", "job.yaml", "--inline"]) == 0
    code = (
        "import sys; from nml_ray.cli.main import call; code = call(['run', 'job.yaml'])\n"
        "assert code == 0\n"
        "assert not {'torch', 'ray', 'pandas', 'pyarrow', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tiny)


def test_the_schema_of_cluster_files_tells_the_kinds_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["schema", "cluster"]) == 0
    validator = jsonschema.Draft202012Validator(json.loads(capsys.readouterr().out))
    for path in sorted((Path(__file__).parents[2] / "cluster").glob("*.yaml")):
        validator.validate(yaml.safe_load(path.read_text()))
    assert not validator.is_valid({"kind": "slurm", "image": "x"})
    assert not validator.is_valid({"kind": "local", "pyton": "x"})
