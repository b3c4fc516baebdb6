"""Mistakes that show before anything runs, in the trials of a sweep that are known: named, and refused where all have
them."""

import json
from pathlib import Path

import pytest
import torch

from nml_ray.cli.main import call
from nml_ray.data.shards import Sample, write_shards
from tests.small_images import picture

JOB = """
name: swept
data: {shards: {pretrain: tars, pretrain_validation: tars}}
noise: {ratios: [0]}
pretrain:
  epochs: 1
  batch: BATCH
  encoder: {name: NAME, width: 2, size: 16}
sweep: {search: SEARCH}
run: {device: DEVICE}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    samples = [Sample(f"{row}", picture(row, "png", (16, 16)), "png", row % 2) for row in range(12)]
    write_shards(samples, tmp_path / "tars", samples_per_shard=12, classes=["a", "b"])
    return tmp_path


def said(capsys, command: str, search: dict, batch: int = 4, name: str = "small_resnet", device: str = "cpu"):
    """Exit code, standard output and standard error."""
    text = JOB.replace("SEARCH", json.dumps(search)).replace("BATCH", str(batch))
    Path("job.yaml").write_text(text.replace("NAME", name).replace("DEVICE", device))
    code = call([command, "job.yaml", *(["--inline"] if command == "run" else [])])
    return code, *capsys.readouterr()


@pytest.mark.long
@pytest.mark.parametrize("command", ["run", "plan"])
def test_what_is_wrong_outside_the_searched_fields_is_refused_at_its_place(here, capsys, command):
    search = {"noise.seed": [0, 1]}
    code, _, err = said(capsys, command, search, batch=13)
    assert (code, err) == (
        2,
        "nml-ray: job.yaml:7: 12 good samples are fewer than one batch of 13; expected a batch of at most 12\n",
    )
    code, _, err = said(capsys, command, search, name="timm:resnet19")
    assert code == 2 and err.startswith("nml-ray: job.yaml:8: there is no encoder 'timm:resnet19'")
    assert not (here / "runs").exists()


def test_a_gpu_that_is_not_there_is_refused_by_run(here, capsys):
    code, _, err = said(capsys, "run", {"noise.seed": [0, 1]}, device="cuda")
    assert code == 2 and err.startswith("nml-ray: job.yaml:10: PyTorch finds no CUDA device here")
    assert not (here / "runs").exists()
    code, out, err = said(capsys, "plan", {"noise.seed": [0, 1]}, device="cuda")
    assert code == 0 and "run.device: cuda is refused" in out and not err


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("search", "first"),
    [
        ({"pretrain.batch": [13, 14]}, "trial 0 (pretrain.batch=13): 12 good samples are fewer than one batch of 13"),
        ({"data.shards.pretrain": ["nowhere", "absent"]}, 'trial 0 (data.shards.pretrain="nowhere"): '),
    ],
)
def test_where_every_point_is_wrong_nothing_begins(here, capsys, command, search, first):
    code, _, err = said(capsys, command, search)
    assert code == 2 and err.startswith(f"nml-ray: {first}") and "1 more trials are wrong" in err
    assert not (here / "runs").exists()


def test_one_wrong_point_is_named_by_plan_which_lists_the_others(here, capsys):
    code, out, err = said(capsys, "plan", {"pretrain.batch": [4, 13], "noise.seed": [0]})
    assert code == 2 and "pretrain/symmetric-0/seed-0 " in out
    assert err.startswith("nml-ray: trial 1 (pretrain.batch=13, noise.seed=0): 12 good samples are fewer")


@pytest.mark.long
def test_one_wrong_point_is_named_first_and_leaves_the_others_alone(here, capsys):
    code, out, err = said(capsys, "run", {"pretrain.batch": [4, 13]})
    assert code == 1 and "1 finished, 1 failed" in out
    assert err.startswith("trial 1 (pretrain.batch=13) will fail: 12 good samples are fewer than one batch of 13")
    code, again, _ = said(capsys, "run", {"pretrain.batch": [4, 13]})  # nothing is made anew
    assert code == 1 and again == out
