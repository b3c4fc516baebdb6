"""The doctor times the steps that a job takes: its precision, what is done to images on the device, its loss."""

import pytest
import torch

from nml_ray.pretrain.arm import Arm
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.study.doctor import training
from nml_ray.study.doctor.examine import _device, _where
from nml_ray.study.doctor.machine import Gpu
from nml_ray.study.job import Job

STRONG = {
    "encoder": {"width": 2, "channels": 3, "size": 16},
    "batch": 16,
    "microbatch": 8,
    "precision": "bfloat16",
    "randaugment": {},
    "mixing": {"mixup": 0.2, "cutmix": 1.0},
    "loss": "bce",
    "repeats": 2,
}


@pytest.mark.long
def test_steps_are_those_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = Arm.add, []

    def watched(arm: Arm, fed, *more) -> None:  # type: ignore[no-untyped-def]
        seen.append((arm.precision, fed[0].mixing is not None, arm.model.loss.kind))
        real(arm, fed, *more)

    monkeypatch.setattr(Arm, "add", watched)
    settings = PretrainSettings.model_validate(STRONG)
    assert training.step_rate(settings, 5, arms=2, threads=1, seconds=0.05) > 0
    assert set(seen) == {("bfloat16", True, "bce")}
    assert training.forward_rate(settings.encoder, 8, 1, 0.05, "bfloat16") > 0


def test_steps_are_timed_where_the_job_takes_them_if_it_can_here() -> None:
    gpu = Gpu("GPU", 1 << 34, 1e10, 2)
    job = Job.model_validate({"name": "a", "run": {"device": "cuda"}})
    assert _device(job, None) == torch.device("cpu")
    (note,) = _where(job, None)
    assert "there is no GPU here" in note
    assert _where(job, gpu) == []
    assert "run.device" in _where(Job(name="a"), gpu)[0]
    assert _where(Job(name="a"), None) == []
