"""Checkpoints of an arm: safetensors and JSON, written aside and committed by a rename.

<attempt>/checkpoints/step-000000420/model.safetensors, optimiser.safetensors, state.json

No generator state is kept: after the start nothing draws from a global generator (CONTRACTS, Randomness).
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nml_ray.pretrain.arm import Arm
from nml_ray.pretrain.resume import FOLDER, committed
from nml_ray.storage.atomic import sync_tree

KEPT = 2  # the newest two: arms of a group may commit a step apart when a run is killed


def save(arm: Arm, attempt: Path, step: int, state: dict[str, Any]) -> None:
    """Commit the arm after `step` steps; `state` is plain data kept beside it."""
    target = attempt / FOLDER / f"step-{step:09d}"
    if target.exists():
        return
    aside = target.with_name(f"aside-{step:09d}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(_plain(arm.model.state_dict()), aside / "model.safetensors")
    save_file(_plain(_optimiser_tensors(arm.optimiser)), aside / "optimiser.safetensors")
    (aside / "state.json").write_text(json.dumps({"step": step, "counts": arm.counts.tolist(), **state}))
    sync_tree(aside)
    aside.rename(target)
    for old in committed(attempt)[:-KEPT]:
        shutil.rmtree(old)


def restore(arm: Arm, checkpoint: Path) -> dict[str, Any]:
    """Put an arm back to a checkpoint; returns the plain data kept beside it."""
    arm.model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    _restore_optimiser(arm.optimiser, load_file(checkpoint / "optimiser.safetensors"))
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    arm.counts = np.array(state["counts"])
    return state


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{number}.{name}": value
        for number, parameter in enumerate(_parameters(optimiser))
        for name, value in optimiser.state[parameter].items()
        if value is not None
    }


def _restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = _parameters(optimiser)
    for name, saved in tensors.items():
        number, _, field = name.partition(".")
        parameter = parameters[int(number)]
        # The fused kernels walk parameter and moments alike in memory: the moments need the parameter's strides.
        value = saved if saved.shape != parameter.shape else torch.empty_like(parameter).copy_(saved)
        optimiser.state[parameter][field] = value


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]
