"""A GPU that this machine lacks is refused by `run` at its place, and `plan` tells of it."""

import pytest
import torch

from nml_ray.cli.main import call

JOB = """
name: on-gpu
data: {icons: {}}
noise: {ratios: [0]}
pretrain: {epochs: 1}
heads: {sweep: [{head: linear_probe}]}
run:
  head_device: cpu
  device: cuda
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


@pytest.mark.parametrize("mode", [[], ["--inline"]])
def test_run_refuses_it_before_anything_is_made(job, capsys, mode):
    assert call(["run", "job.yaml", *mode]) == 2
    said = capsys.readouterr().err
    assert said == "nml-ray: job.yaml:9: PyTorch finds no CUDA device here; expected run.device: cpu\n"
    assert not (job / "runs").exists()


def test_one_for_the_heads_alone_is_refused_where_heads_are_made(job, capsys):
    (job / "job.yaml").write_text(JOB.replace("device: cpu\n  device: cuda", "device: cuda"))
    assert call(["run", "job.yaml"]) == 2
    assert capsys.readouterr().err.startswith("nml-ray: job.yaml:8: PyTorch finds no CUDA device")
    assert call(["plan", "job.yaml"]) == 0
    assert "run.head_device: cuda is refused" in capsys.readouterr().out
    assert call(["plan", "job.yaml", "--until", "pretrain"]) == 0
    assert "CUDA" not in capsys.readouterr().out
