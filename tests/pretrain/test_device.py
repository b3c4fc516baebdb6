"""The device that a run trains on."""

import pytest
import torch

from nml_ray.config.errors import UserError
from nml_ray.pretrain.device import training_device


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    assert training_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"run\.device: PyTorch finds no CUDA device here; expected cpu"):
        training_device("cuda")


@pytest.mark.parametrize(("name", "index"), [("cuda", 2), ("cuda:0", 0), ("cuda:3", 3)])
def test_a_gpu_becomes_the_process_own_and_float32_stays_exact(monkeypatch, name, index):
    chosen: list[int] = []
    for function, answer in (("is_available", True), ("current_device", 2)):
        monkeypatch.setattr(torch.cuda, function, lambda answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    assert training_device(name) == torch.device("cuda", index)
    assert chosen == [index]
    assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.benchmark
