"""Encoders that cannot be trained are refused by `plan` and `run`, at their place, before anything starts."""

import pytest

from nml_ray.cli.main import call

JOB = """
name: named
data: {icons: {}}
pretrain:
  encoder: {name: small_resnet, channels: 1, size: 32}
encoders:
  - {name: small_resnet}
  - {name: "timm:resnet18"}
extract: {}
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("right", "wrong", "line", "nearest"),
    [
        ("name: small_resnet, channels", "name: small_resnt, channels", 5, "small_resnet"),
        ("name: small_resnet, channels", "name: open_clip:RN51, channels", 5, "open_clip:RN50"),
        ("name: small_resnet, channels", "name: torchvision:resnet51, channels", 5, "torchvision:resnet50"),
        ("timm:resnet18", "timm:resnet19", 8, "timm:resnet18"),
    ],
)
def test_unknown_names_are_refused_at_their_place(job, capsys, command, right, wrong, line, nearest):
    (job / "job.yaml").write_text(JOB.replace(right, wrong))
    assert call([command, "job.yaml"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"nml-ray: job.yaml:{line}: there is no encoder '") and f"did you mean '{nearest}'?" in said
    assert not (job / "runs").exists()


@pytest.mark.long
@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("section", "line", "words"),
    [
        ('  encoder: {name: "timm:vit_tiny_patch16_224", size: 30}', 5, "images of 30"),
        ('  encoder: {name: "timm:resnet18", size: 32}\n  microbatch: 1', 6, "at a time (Expected more than 1 value"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_at_their_place(job, capsys, command, section, line, words):
    own = "  encoder: {name: small_resnet, channels: 1, size: 32}"
    (job / "job.yaml").write_text(JOB.replace(own, section))
    assert call([command, "job.yaml"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"nml-ray: job.yaml:{line}: ") and words in said
    assert not (job / "runs").exists()


@pytest.mark.long
def test_names_are_not_looked_at_where_nothing_is_done_with_them(job, capsys):
    (job / "job.yaml").write_text(JOB.replace("timm:resnet18", "timm:resnet19"))
    assert call(["plan", "job.yaml", "--until", "pretrain"]) == 0


def test_random_weights_to_extract_from_are_told(job, capsys):
    assert call(["plan", "job.yaml"]) == 0
    assert "timm:resnet18: random weights; `weights: hub`" in capsys.readouterr().out
