"""Realistic JPEGs to measure with: 500x375, quality 90, 4:2:0, about 80 KB each, the same bytes for the same seed.

    .venv/bin/python benchmarks/photos.py DIR --photos 3000        about a minute

Each is a random view (turned, in perspective, with its colours shifted and a little sensor noise) of one of the
photographs that scikit-learn and matplotlib ship: real edges and textures, so that the entropy decoder has the work
that photographs give it. Every fourth is upright. The other benchmarks make what they need themselves, in `--data DIR`:

    DIR/photos-N            WebDataset tars with labels (`.jpg`, `.cls`), indexed: for every loader of tars
    DIR/photos-N-256-qQ     the same made smaller by `nml-ray data shard --short-side 256 --quality Q`
    DIR/photos-N-xK         K times as many samples: each tar K times, by hard link, keys made unique by the tar's name
"""

import argparse
import io
import os
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from nml_ray.cli.main import call
from nml_ray.data.dataset_info import FILE
from nml_ray.data.indexing import index_directory
from nml_ray.data.processes import spread
from nml_ray.data.shards import Sample, write_shards

WIDTH, HEIGHT, QUALITY, SUBSAMPLING_420 = 500, 375, 90, 2
CLASSES = tuple(f"class{number}" for number in range(10))
SHARDS = 4  # of a set of photographs: loaders with several processes share out whole tars
SHARES = (0.7, 0.15, 0.15)  # of the photographs: a palace among trees, a flower, a portrait
JITTER = 0.08  # of the view's corners, as a share of its sides
NOISE = (2.0, 7.0)  # standard deviation in grey levels


@lru_cache
def sources() -> tuple[Image.Image, ...]:
    """The photographs, each with its mirror images around it, so that views may be larger than they are."""
    import matplotlib  # both take seconds, which processes that only use the sets need not spend
    from sklearn.datasets import load_sample_images

    hopper = Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg"
    originals = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    originals.append(Image.open(hopper).convert("RGB"))
    return tuple(_mirrored(image) for image in originals)


def _mirrored(image: Image.Image) -> Image.Image:
    width, height = image.size
    out = Image.new("RGB", (2 * width, 2 * height))
    for column, row in np.ndindex(2, 2):
        part = ImageOps.mirror(image) if column else image
        out.paste(ImageOps.flip(part) if row else part, (column * width, row * height))
    return out


def photo(number: int, seed: int = 0) -> bytes:
    """The JPEG of this number."""
    rng = np.random.default_rng([seed, number])
    source = sources()[rng.choice(3, p=SHARES)]
    size = (HEIGHT, WIDTH) if number % 4 == 3 else (WIDTH, HEIGHT)
    zoom = rng.uniform(0.9, min(source.width / size[0], source.height / size[1], 1.7))
    sides = zoom * np.array(size)
    corner = rng.uniform(0, 1, 2) * (np.array(source.size) - sides)
    corners = corner + sides * np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
    corners += rng.uniform(-JITTER, JITTER, (4, 2)) * sides
    corners = np.clip(corners, 0, np.array(source.size) - 1)
    view = source.transform(size, Image.Transform.QUAD, corners.ravel().tolist(), Image.Resampling.BICUBIC)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        view = change(view).enhance(rng.uniform(0.8, 1.2))
    pixels = np.asarray(view) * rng.uniform(0.92, 1.08, 3) + rng.normal(0, rng.uniform(*NOISE), (*view.size[::-1], 1))
    out = io.BytesIO()
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    image.save(out, "JPEG", quality=QUALITY, subsampling=SUBSAMPLING_420)
    return out.getvalue()


def photo_set(data: Path, count: int, processes: int = 2) -> Path:
    """The directory of a data set of `count` photographs, made if it is not there."""
    directory = _emptied(data / f"photos-{count}")
    if not (directory / FILE).exists():
        blocks = [range(first, min(first + 64, count)) for first in range(0, count, 64)]
        images = dict(entry for block in spread(_photos, blocks, processes) for entry in block)
        samples = [Sample(f"photo{n:06d}", images[n], "jpg", label=n % len(CLASSES)) for n in range(count)]
        write_shards(samples, directory, samples_per_shard=-(-count // SHARDS), classes=CLASSES)
    return directory


def _photos(numbers: range) -> list[tuple[int, bytes]]:
    return [(number, photo(number)) for number in numbers]


def short_set(photos: Path, quality: int, side: int = 256) -> Path:
    """The same with images of a short side of 256 pixels, made as a user makes them."""
    directory = photos.with_name(f"{photos.name}-{side}-q{quality}")
    if not (directory / FILE).exists():
        options = {"--short-side": side, "--quality": quality, "--samples-per-shard": _tar_size(photos)}
        flat = [str(part) for option in options.items() for part in option]
        code = call(["data", "shard", str(photos), str(directory), *flat])
        if code:
            raise SystemExit(code)
    return directory


def _tar_size(photos: Path) -> int:
    return -(-int(photos.name.split("-")[1]) // SHARDS)


def linked_set(photos: Path, times: int) -> Path:
    """A data set of `times` as many samples that takes no more room: the tars linked under other names."""
    directory = _emptied(photos.with_name(f"{photos.name}-x{times}"))
    if not (directory / FILE).exists():
        for number in range(times):
            for tar in sorted(photos.glob("*.tar")):
                os.link(tar, directory / f"copy{number:03d}-{tar.name}")
        index_directory(directory, CLASSES, key_prefix="shard")
    return directory


def tars(directory: Path) -> list[str]:
    """Paths of a data set's tars."""
    return [str(path) for path in sorted(directory.glob("*.tar"))]


def _emptied(directory: Path) -> Path:
    """The directory as it is when it is whole, else empty: a run that was stopped leaves nothing to be mistaken."""
    if not (directory / FILE).exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    return directory


def main() -> None:
    """Make a set and say what it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--photos", type=int, default=3000)
    options = parser.parse_args()
    directory = photo_set(options.directory, options.photos)
    size = sum(Path(tar).stat().st_size for tar in tars(directory)) / options.photos
    print(f"{directory}: {options.photos} photographs, {size / 1000:.1f} KB each with their labels")


if __name__ == "__main__":
    main()
