"""Checkpoints of an arm: safetensors and JSON, copied in the training loop, written and committed behind its back.

<attempt>/checkpoints/step-000000420/model.safetensors, optimiser.safetensors, average.safetensors (where an average of
the weights is kept), state.json

No generator state is kept: after the start nothing draws from a global generator (CONTRACTS, Randomness).
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from nml_ray.data.loader import Completion
from nml_ray.models.transfer import computed, host_memory
from nml_ray.pretrain.arm import BaseArm
from nml_ray.pretrain.best import keep_best
from nml_ray.pretrain.resume import FOLDER, checkpoint_name, committed, retire
from nml_ray.storage.artifact import Attempt
from nml_ray.storage.atomic import sync_directory, sync_tree

Memory = dict[str, dict[str, Tensor]]  # of an arm's snapshots: tensors by name, by file


@dataclass(frozen=True)
class Snapshot:
    """A copy of an arm after `step` steps, apart from the training that goes on: tensors by file, and plain data.

    Attributes:
        tensors: in `Memory`, until the arm's next snapshot.
        best: it is the best one so far, and kept for that.
        copied: when the copies are there, where a GPU still makes them.
    """

    attempt: Path
    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]
    best: bool = False
    copied: Completion | None = None
    _name: str = field(default_factory=lambda: uuid4().hex[:12], repr=False)  # of what is written aside

    @classmethod
    def of(
        cls,
        arm: BaseArm[Any],
        attempt: Path,
        step: int,
        state: Mapping[str, Any],
        memory: Memory,
        best: bool = False,
    ) -> "Snapshot":
        """Copy the arm's tensors into the memory of its last snapshot, which must have been written by now.

        `state` is plain data that is not changed afterwards.
        """
        scale = arm.scale.state() if arm.scale else None
        plain = {"step": step, "counts": arm.counts.tolist(), "loss_scale": scale, **state}
        tensors = {"model": arm.model.state_dict(), "optimiser": arm.optimiser.state()}
        if arm.average:
            tensors["average"] = arm.average.model.state_dict()
        for file, values in tensors.items():
            _copy(values, memory.setdefault(file, {}))
        return cls(attempt, step, memory, plain, best, computed(arm.gradients.device))

    @property
    def directory(self) -> Path:
        """The checkpoint, once it is committed."""
        return self.attempt / FOLDER / checkpoint_name(self.step)

    @property
    def _aside(self) -> Path:
        return self.directory.with_name(f"aside-{self.step:09d}-{self._name}")

    def write(self) -> None:
        """Put everything on storage, aside."""
        if self.copied:
            self.copied.synchronize()
        self._aside.mkdir(parents=True)
        for file, values in self.tensors.items():
            contiguous = {name: value.contiguous() for name, value in values.items()}
            save_file(contiguous, self._aside / f"{file}.safetensors")
        (self._aside / "state.json").write_text(json.dumps(self.state))
        sync_tree(self._aside)

    def commit(self, keep: int) -> None:
        """Give what `write` wrote its name; from then on the checkpoint exists, and all but the newest `keep` go.

        Those of earlier attempts stay until this one has as many.
        """
        if not self.directory.exists():  # else an orphan of this attempt has made it
            self._aside.rename(self.directory)
            sync_directory(self.directory.parent)
        shutil.rmtree(self._aside, ignore_errors=True)
        if self.best:
            keep_best(self.directory, self.attempt)
        own = committed(self.attempt)
        earlier = Attempt(self.attempt).earlier if len(own) >= keep else []
        for old in [*own[:-keep], *(path for attempt in earlier for path in committed(attempt))]:
            retire(old)


def restore(arm: BaseArm[Any], checkpoint: Path) -> dict[str, Any]:
    """Put an arm back to a checkpoint; returns the plain data kept beside it."""
    arm.model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    arm.optimiser.restore(load_file(checkpoint / "optimiser.safetensors"))
    if arm.average:
        arm.average.model.load_state_dict(load_file(checkpoint / "average.safetensors"))
    text = (checkpoint / "state.json").read_text()
    state: dict[str, Any] = json.loads(text, parse_constant=lambda _: None)  # NaN of earlier versions' curves
    if arm.scale:
        arm.scale.restore(state["loss_scale"])
    arm.counts = np.array(state["counts"])
    return state


def _copy(tensors: Mapping[str, Tensor], memory: dict[str, Tensor]) -> None:
    """Copies on the CPU, laid out as the tensors are: to make fresh memory for them, or to turn them, took three times
    as long (a ResNet-50 under AdamW)."""
    for name, tensor in tensors.items():
        if name not in memory:
            memory[name] = host_memory(tensor)
        memory[name].copy_(tensor.detach(), non_blocking=True)
