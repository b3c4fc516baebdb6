"""A cheap real job, and a directory of code from which it is submitted."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml


def code_directory(root: Path, epochs: int = 2, **changes: object) -> Path:
    """A directory with job.yaml: a linear probe on 120 given features."""
    root.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for split, count in (("train", 60), ("validation", 30), ("test", 30)):
        labels = np.arange(count) % 3
        features = (draw.normal(size=(count, 8)) + labels[:, None]).astype(np.float32)
        np.savez(root / f"{split}.npz", labels=labels, features=features)
    job = {
        "name": "tiny",
        "features": {split: f"{split}.npz" for split in ("train", "validation", "test")},
        "heads": {"seeds": [0], "sweep": [{"head": "linear_probe", "fixed": {"epochs": epochs}}]},
        **changes,
    }
    (root / "job.yaml").write_text(yaml.safe_dump(job, sort_keys=False))
    (root / "local.yaml").write_text("kind: local\n")
    return root


def nml_ray(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """A command line in a process of its own, to its end."""
    return subprocess.run([*command(), *arguments], cwd=cwd, capture_output=True, text=True, env=environment())


def begun(*arguments: str) -> "subprocess.Popen[str]":
    """A command line in a process of its own, at work."""
    pipe = subprocess.PIPE
    return subprocess.Popen([*command(), *arguments], stdout=pipe, stderr=pipe, text=True, env=environment())


def command() -> list[str]:
    """How `nml-ray` is called."""
    return [sys.executable, "-m", "nml_ray"]


def environment() -> dict[str, str]:
    """With this package to be found from any directory."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


def until(true: Callable[[], object]) -> None:
    """Wait for something that happens."""
    while not true():
        time.sleep(0.05)
