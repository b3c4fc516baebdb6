"""`nml-ray plan JOB --cluster CLUSTER` refuses what cannot work there."""

from pathlib import Path

import pytest

from nml_ray.cli.main import call
from tests.submitted import code_directory

SLURM = (
    'kind: slurm\ndirectory: {0}/slurm\ntime: "60"\nnodes: 2\ncpus_per_node: 4\ngpus_per_node: 1\ngpu_hour_price: 2\n'
)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = code_directory(tmp_path / "code")
    (directory / "lab.yaml").write_text(SLURM.format(tmp_path))
    monkeypatch.chdir(directory)
    return directory


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = call(["plan", *arguments, "--cluster", "lab.yaml"])
    output, errors = capsys.readouterr()
    return status, output, errors


def test_a_relative_storage_is_refused_with_the_fix(code, capsys) -> None:
    status, _, errors = planned(capsys, "demo")
    assert status == 2 and "storage 'runs' is relative" in errors and "--storage" in errors


def test_more_workers_than_there_is_room_for_are_refused(code, capsys, tmp_path) -> None:
    settings = (
        "--set",
        "run.workers=3",
        "--set",
        "threads=3",
        "--set",
        "pretrain.microbatch=64",
        "--storage",
        str(tmp_path / "runs"),
    )
    status, _, errors = planned(capsys, "demo", *settings)
    assert status == 2 and "room for 2 (nodes: 2 with 4 CPUs)" in errors and errors.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_what_fits_is_told_with_its_cost(code, capsys, tmp_path) -> None:
    storage = ("--storage", str(tmp_path / "runs"))
    status, output, errors = planned(capsys, "demo", *storage)
    assert (status, errors) == (0, "")
    told = dict(line.split(": ", 1) for line in output.splitlines()[-3:])
    assert told["code"].endswith("of at most 100MiB") and told["storage"] == f"{tmp_path}/runs can be written"
    assert told["disk"].startswith("checkpoints and encoders take up to ")
    assert call(["run", "demo", "--inline", "--until", "shards", *storage]) == 0
    capsys.readouterr()
    status, output, _ = planned(capsys, "demo", "--set", "run.device=cuda", "--gpu", "H100", *storage)
    *_, hours = output.splitlines()
    assert status == 0 and hours.startswith("GPU-hours: ") and " USD (" in hours and "on H100 at 30% of its" in hours
    status, _, errors = planned(capsys, "demo", "--set", "run.device=cuda", "--gpu", "Z9", *storage)
    assert status == 2 and "--gpu: GPU 'Z9'; expected one of B200" in errors
