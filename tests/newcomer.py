"""What a reader of the documentation has lying in a directory."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests import task_layouts


def downloads(place: Path) -> None:
    """Photos, a folder a class, and a set as it is distributed."""
    generator = np.random.default_rng(0)
    for number in range(24):
        path = place / "photos" / f"kind-{number % 3}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (70, 80, 3), dtype=np.uint8)).save(path)
    task_layouts.dtd(place / "downloads")
