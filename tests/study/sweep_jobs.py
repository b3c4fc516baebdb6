"""Jobs with a sweep over one head on small features, and what they leave."""

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from nml_ray.config.document import Document
from nml_ray.config.validate import validate
from nml_ray.study.job import Job
from nml_ray.study.progress import PlainDisplay

RATE = "heads.sweep.0.fixed.learning_rate"
EPOCHS = "heads.sweep.0.fixed.epochs"


def features(root: Path, name: str = "f", classes: int = 4) -> dict[str, str]:
    """Files of features around class centres."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(4, 8))
    paths = {}
    for split in ("train", "validation", "test"):
        labels = generator.integers(0, classes, 96)
        values = centres[labels] + 0.8 * generator.normal(size=(96, 8))
        paths[split] = str(root / f"{name}-{split}.npz")
        np.savez(paths[split], labels=labels, features=values.astype(np.float32))
    return paths


def job_of(root: Path, sweep: dict, **changes) -> Job:
    data = {
        "name": "s",
        "features": features(root),
        "heads": {"sweep": [{"head": "linear_probe", "fixed": {"epochs": 3}}]},
        "run": {"storage": str(root / "runs")},
        "sweep": sweep,
    }
    return validate(Job, Document("job", {**data, **changes}))


def rows_of(root: Path) -> list[dict]:
    return pq.read_table(root / "runs/studies/s/trials.parquet").to_pylist()


def quiet() -> PlainDisplay:
    return PlainDisplay(open(os.devnull, "w"))
