"""Checkpoints of an arm: safetensors and JSON, written aside and committed by a rename.

<attempt>/checkpoints/step-000000420/model.safetensors, optimiser.safetensors, average.safetensors (where an average of
the weights is kept), state.json

No generator state is kept: after the start nothing draws from a global generator (CONTRACTS, Randomness).
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from nml_ray.pretrain.arm import BaseArm
from nml_ray.pretrain.resume import FOLDER, committed
from nml_ray.storage.atomic import sync_tree

KEPT = 2  # the newest two: arms of a group may commit a step apart when a run is killed


def save(arm: BaseArm[Any], attempt: Path, step: int, state: dict[str, Any]) -> None:
    """Commit the arm after `step` steps; `state` is plain data kept beside it."""
    target = attempt / FOLDER / f"step-{step:09d}"
    if target.exists():
        return
    aside = target.with_name(f"aside-{step:09d}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(_plain(arm.model.state_dict()), aside / "model.safetensors")
    save_file(_plain(arm.optimiser.state()), aside / "optimiser.safetensors")
    if arm.average:
        save_file(_plain(arm.average.model.state_dict()), aside / "average.safetensors")
    scale = arm.scale.state() if arm.scale else None
    facts = {"step": step, "counts": arm.counts.tolist(), "loss_scale": scale, **state}
    (aside / "state.json").write_text(json.dumps(facts))
    sync_tree(aside)
    aside.rename(target)
    for old in committed(attempt)[:-KEPT]:
        shutil.rmtree(old)


def restore(arm: BaseArm[Any], checkpoint: Path) -> dict[str, Any]:
    """Put an arm back to a checkpoint; returns the plain data kept beside it."""
    arm.model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    arm.optimiser.restore(load_file(checkpoint / "optimiser.safetensors"))
    if arm.average:
        arm.average.model.load_state_dict(load_file(checkpoint / "average.safetensors"))
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    if arm.scale:
        arm.scale.restore(state["loss_scale"])
    arm.counts = np.array(state["counts"])
    return state


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
