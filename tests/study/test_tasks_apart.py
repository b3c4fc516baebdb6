"""A mistake in the data of one downstream task stops that task alone: it is named, and the report shows the others."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from nml_ray.cli.main import call
from nml_ray.data.shards import Sample, write_shards
from tests.small_images import picture

JOB = """
name: apart
encoders: [{name: small_resnet, width: 2, size: 16}]
tasks: [TASKS]
spectrum: {}
heads: {sweep: [{head: linear_probe, fixed: {epochs: 2}}]}
"""
TASK = """
name: NAME
train: NAME/train
test: NAME/test
ood: {other: NAME/other}
"""


def shards(directory: Path, labels: Sequence[int], broken: bool = False) -> None:
    name = "/".join(directory.parts[-2:])
    samples = [Sample(f"{name}/{row}", picture(row, "png"), "png", label) for row, label in enumerate(labels)]
    if broken:
        samples[-1] = Sample(f"{name}/bad", b"no image", "png", labels[-1])
    write_shards(samples, directory, samples_per_shard=100, classes=["a", "b", "c"])


def task(name: str, train: Sequence[int] = (0, 1) * 8, other: Sequence[int] = (0, 1), broken: bool = False) -> str:
    root = Path("task_data") / name
    shards(root / "train", train)
    shards(root / "test", [0, 1, 0, 1], broken)
    shards(root / "other", other)
    Path(f"{name}.yaml").write_text(TASK.replace("NAME", name))
    return f"{name}.yaml"


pytestmark = pytest.mark.long


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *tasks: str, more: str = "") -> tuple[int, str, str]:
    Path("job.yaml").write_text(JOB.replace("TASKS", ", ".join(tasks)) + more)
    code = call(["run", "job.yaml", "--inline"])
    return code, *capsys.readouterr()


def test_the_others_finish_and_are_reported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = task("good")
    one_class = task("one_class", train=[0] * 16)
    no_image = task("no_image", broken=True)
    stranger = task("stranger", other=[2, 2])  # a class of its names, but with no sample of train's
    code, out, err = run(capsys, one_class, good, no_image, stranger)
    assert code == 1 and "report:" in out
    assert "failed: heads/small_resnet/one_class: one class (0) in all" in err
    assert "failed: extract/small_resnet/no_image:" in err and "no_image/test/bad" in err
    assert "not made, because extract/small_resnet/no_image failed" in err and "report" not in err.split("not made")[1]
    study = here / "runs/studies/apart"
    rows = (study / "task_table.csv").read_text().splitlines()
    assert any(row.startswith('"good, small_resnet"') for row in rows)
    assert "Without what failed: one_class, no_image" in (study / "report.html").read_text()
    assert "Without what failed: one_class, no_image" in out
    stages = json.loads((study / "stages.json").read_text())
    states = {task: stages[f"heads/small_resnet/{task}"]["state"] for task in ("good", "one_class", "no_image")}
    assert states == {"good": "made", "one_class": "failed", "no_image": "left out"}
    # mended, it is made and reported beside the others, of which nothing is made again
    made = {path.parent for path in (here / "runs/heads").glob("*/record.json")}
    code, out, _ = run(capsys, task("one_class2"), good)
    assert code == 0 and "Without" not in out
    assert len(made - {path.parent for path in (here / "runs/heads").glob("*/record.json")}) == 0


def test_where_all_fail_so_the_input_is_wrong(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, task("first", train=[0] * 16), task("second", train=[1] * 16))
    assert code == 2 and "report:" not in out
    assert "heads/small_resnet/first: one class (0)" in err and "second: one class (1)" in err
    code, _, err = run(capsys, task("third", broken=True))
    assert code == 2 and "failed: extract/small_resnet/third:" in err
