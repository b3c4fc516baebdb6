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
