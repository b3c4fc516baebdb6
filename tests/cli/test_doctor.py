"""`nml-ray doctor` on a small data set, for a moment."""

import json
from pathlib import Path

import pytest

from nml_ray.cli.main import call
from nml_ray.data.photo import photo
from nml_ray.data.shards import Sample, write_shards

pytestmark = pytest.mark.long

JOB = """
name: tiny
threads: 1
data: {shards: {pretrain: tars, train: tars, validation: tars, test: tars}}
noise: {ratios: [0, 0.2]}
pretrain:
  batch: 8
  microbatch: 4
  epochs: 3
  encoder: {width: 2, size: 32}
  augmentation: {kind: resized_crop}
spectrum: {}
run: {decode_threads: 2, storage: elsewhere/runs}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    samples = [Sample(f"{i}", photo(i, (120, 90)), "jpg", i % 2) for i in range(16)]
    write_shards(samples, tmp_path / "tars", samples_per_shard=8, classes=("a", "b"))
    (tmp_path / "job.yaml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def left(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*")}


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["doctor", "--help"]) == 0
    out = capsys.readouterr().out
    assert "Examples:" in out and "nml-ray doctor demo" in out


def test_a_job_is_measured_and_judged(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = left(here)
    assert call(["doctor", "job.yaml", "--seconds", "0.5", "--json", "found.json"]) == 0
    captured = capsys.readouterr()
    assert "measuring training steps of small_resnet, 1 arm and 2" in captured.err
    out = captured.out
    assert "tars: 16 images of" in out and "no GPU" in out and "<- bottleneck" in out and "extraction:" in out
    assert "job tiny: 1 worker(s) of 1 computing and 2 decoding thread(s), 2 arm(s) each" in out
    assert "for 1 seed(s) x 2 arm(s) x 3 epoch(s)" in out
    found = json.loads((here / "found.json").read_text())
    assert found["work"]["images"] == 48 and found["rates"]["smaller_side"] == 37
    assert found["verdict"]["bottleneck"] in ("read", "decode", "compute", "cores")
    assert min(found["rates"]["decode"].values()) > 0 and found["verdict"]["hours"] > 0
    assert left(here) - before == {"found.json"}


def test_the_machine_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["doctor", "--data", "tars", "--seconds", "0.5", "--storage", "out"]) == 0
    out = capsys.readouterr().out
    assert "cores" in out and "memory" in out and "1 thread" in out and "tars: 16 images" in out
    assert "job" not in out and left(here) == {"job.yaml", *left(here / "tars"), "tars"}


def test_mistakes_are_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--data", "nowhere"], "nowhere"),
        (["--set", "threads=2"], "--set: there is no job to change"),
        (["nojob"], "JOB: no file 'nojob'"),
        (["job.yaml", "--seconds", "0.5", "--json", "no/where.json"], "--json no/where.json: cannot be written"),
    ):
        assert call(["doctor", *arguments, "--seconds", "0.5"]) == 2
        err = capsys.readouterr().err.splitlines()
        assert err[-1].startswith(f"nml-ray: {message}") and "Traceback" not in "".join(err)
