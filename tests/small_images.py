"""Small images of every format, as tests write them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from nml_ray.data.shards import write_tar


def picture(number: int, kind: str = "jpg", size: tuple[int, int] = (24, 16), mode: str = "RGB") -> bytes:
    """An encoded image that depends on the number alone; smooth, as photographs are."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = [127 + 120 * np.sin(number + channel + 5 * x + 3 * y) for channel in range(3)]
    image = Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8)).convert(mode)
    out = io.BytesIO()
    image.save(out, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[kind])
    return out.getvalue()


def image_tree(root: Path, classes: tuple[str, ...] = ("cat", "dog", "owl"), each: int = 8) -> None:
    """A folder of images: class directories with files of three formats, one level deeper for some."""
    for c, name in enumerate(classes):
        for i in range(each):
            kind = ("jpg", "png", "webp")[i % 3]
            path = root / name / ("deep.er" if i % 2 else "") / f"{name}.v{i}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(c * each + i, kind))


def sorted_tars(directory: Path) -> None:
    """Eight tars of 200 classes, sorted by class, as foreign data often are."""
    directory.mkdir(exist_ok=True)
    for part in range(8):
        names = [(c, i) for c in range(part * 25, part * 25 + 25) for i in range(10)]
        image = picture(part, "png", (4, 4))
        write_tar(directory / f"p{part}.tar", ((f"{c}-{i}", {"png": image, "cls": b"%d" % c}) for c, i in names))
