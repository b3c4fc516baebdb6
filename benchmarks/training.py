"""What the measurements of training share: plans over icons and photographs, and who burns how much CPU."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from nml_ray.data.config import NoiseSettings
from nml_ray.data.dataset_info import FILE
from nml_ray.data.icons import source
from nml_ray.data.shards import write_shards
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.plan import ArmPlan, GroupPlan
from nml_ray.storage.artifact import Store
from nml_ray.study.stages.shards import samples

SPLIT = "pretrain"
ICONS = {"name": "small_resnet", "width": 24, "channels": 1, "size": 32, "mean": [0.71], "std": [0.43]}
"""The encoder of the demo."""


def icons(data: Path, quick: bool = False) -> Path:
    """The directory of the icons for pre-training, made if it is not there; with `quick` the first 512."""
    directory = data / f"icons{'-quick' * quick}"
    if not (directory / FILE).exists():
        shutil.rmtree(directory, ignore_errors=True)
        chosen = [sample for number, sample in enumerate(samples(SPLIT)) if not quick or number < 512]
        write_shards(chosen, directory, samples_per_shard=2048, classes=source.classes(SPLIT))
    return directory


def group_plan(
    root: Path, data: Path, ratios: Sequence[str], settings: Mapping[str, Any], name: str = "arms", **run: Any
) -> GroupPlan:
    """Noise arms over a data set, each with a new attempt in a store at `root`; one thread computes."""
    recipe = PretrainSettings.model_validate(settings).model_dump(mode="json")
    noise = NoiseSettings(kind="symmetric", ratios=tuple(ratios), seed=0)
    arms = tuple(
        ArmPlan(arm.name, arm.hashed(), str(Store(root).attempt("pretrain", f"{name}-{arm.ratio}").path))
        for arm in noise.arms()
    )
    return replace(GroupPlan(str(data), recipe, seed=0, threads=1, arms=arms), **run)


@dataclass(frozen=True)
class Used:
    """What a process is, and the CPU-seconds that it has used."""

    what: str
    cpu: float


def family() -> dict[int, Used]:
    """The processes below this one, by pid."""
    used = {}
    for process in psutil.Process().children(recursive=True):
        try:
            times, words = process.cpu_times(), process.cmdline()
        except psutil.NoSuchProcess:
            continue
        title = words[0] if words else ""
        what = title.removeprefix("ray::").split(".")[0] if title.startswith("ray::") else "others"
        used[process.pid] = Used(what, times.user + times.system)
    return used


def burnt(before: Mapping[int, Used], after: Mapping[int, Used]) -> dict[str, float]:
    """CPU-seconds between two looks at `family`, by what the processes are that are there at the second."""
    total: dict[str, float] = {}
    for pid, used in after.items():
        total[used.what] = total.get(used.what, 0) + used.cpu - (before[pid].cpu if pid in before else 0)
    return total


def keep_compiled(data: Path) -> None:
    """Let the processes that this one starts keep compiled modules, as an installed Python does, even where the
    environment forbids it: else most of a start is the compiling of torch and Ray, anew in each process."""
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ["PYTHONPYCACHEPREFIX"] = str((data / "pycache").absolute())
