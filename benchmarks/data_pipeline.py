"""From a JPEG's bytes to a training image: images a second and core, against the PIL chain, and how like it ours is.

    .venv/bin/python benchmarks/data_pipeline.py       about three minutes; writes results/data_pipeline.json and .md

Random resized crop to 224 (bicubic) and flip, on one thread, from bytes in memory. The PIL chain is that of timm and
open_clip and ends in float32, normalised; ours ends in uint8 and is normalised on the device (an arm does that on the
CPU too). "Our whole loader" adds what else it does: order, reading, the audit's hash, the batch. Also from images made
smaller once (`nml-ray data shard --short-side 256`), an option that changes pixels. Rates are per second of CPU time.

The peak signal to noise ratio (PSNR) is against PIL's full decode and bicubic resize of the same box: of the original,
also for the smaller images.
"""

import io
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.data_ours import SEED, normalised, opened
from benchmarks.data_peers import SIZE, pil_chain
from benchmarks.measure import Goal, interleaved, median, number, parsed, parser, ratio, save, spread, table
from benchmarks.photos import photo_set, short_set
from nml_ray.data.augment import CropDraws, ResizedCropAugmentation
from nml_ray.data.dataset import Dataset
from nml_ray.data.decode import PixelArray
from nml_ray.data.reader import ShardReader
from nml_ray.data.transform import train_image

NAME = "data_pipeline"
SCALES = ((0.08, 1.0), (0.8, 1.0))
QUALITIES = (90, 95)  # of the smaller images: the usual, and the default of `data shard`
CHUNK = 64  # images whose draws are made at once, as in the loader
PIL, OURS, LOADER = "PIL chain", "ours", "our whole loader, one thread"
FLOATS = "ours, then float32 and normalised on the CPU"
SMALL = "ours, from short side 256, quality {}"
PIL_SMALL = "PIL chain, from short side 256, quality 90"


def encoded(directory: Path, count: int) -> tuple[list[bytes], np.ndarray[Any, np.dtype[np.uint64]]]:
    """The first images of a set by key, and their keys' hashes."""
    dataset = Dataset.open(directory)
    numbers = sorted(range(len(dataset)), key=dataset.key)[:count]
    reader = ShardReader(dataset)
    return [bytes(reader.read(sample)) for sample in numbers], dataset.key_hash[numbers]


def ours(images: list[bytes], hashes: Any, scale: tuple[float, float], epoch: int = 0) -> list[PixelArray]:
    """What the loader does with each image."""
    made = []
    for first in range(0, len(images), CHUNK):
        draws = CropDraws(ResizedCropAugmentation(scale=scale), SEED, hashes[first : first + CHUNK], epoch)
        for row, data in enumerate(images[first : first + CHUNK]):
            made.append(train_image(data, size=SIZE, box=partial(draws.box, row), mirror=bool(row % 2)))
    return made


def whole_loader(directory: Path, count: int, scale: tuple[float, float]) -> int:
    """Images that came out of the loader."""
    loader, _ = opened(directory, min(CHUNK, count), 1, scale)
    return sum(len(one.images) for step in loader.steps(0, max(1, count // CHUNK)) for one in step)


def rate(run: Callable[[], int]) -> float:
    """Images a second of process CPU."""
    began = time.process_time()
    count = run()
    return count / (time.process_time() - began)


def speeds(photos: Path, count: int, rounds: int, scale: tuple[float, float]) -> dict[str, list[float]]:
    """Images a second and core of each arm, by round."""
    images, hashes = encoded(photos, count)
    chain = pil_chain(scale)
    runs: dict[str, Callable[[], int]] = {
        PIL: lambda: len([chain(data) for data in images]),
        OURS: lambda: len(ours(images, hashes, scale)),
        FLOATS: lambda: len([normalised(one[None]) for one in ours(images, hashes, scale)]),
        LOADER: partial(whole_loader, photos, count, scale),
    }
    for quality in QUALITIES:
        small, _ = encoded(short_set(photos, quality), count)
        runs[SMALL.format(quality)] = partial(lambda of: len(ours(of, hashes, scale)), small)
        if quality == QUALITIES[0]:
            runs[PIL_SMALL] = partial(lambda of: len([chain(data) for data in of]), small)
    arms = {name: partial(rate, run) for name, run in runs.items()}
    interleaved(arms, 1)
    return interleaved(arms, rounds)


def likeness(photos: Path, source: Path, count: int, scale: tuple[float, float]) -> dict[str, float]:
    """Of ours, from the set `source`, against PIL from the originals: decibels, and the mean difference in grey levels.

    Boxes are drawn on the images of `source`.
    """
    originals, hashes = encoded(photos, count)
    images, _ = encoded(source, count)
    decibels, differences = [], []
    for original, data, key_hash in zip(originals, images, hashes, strict=True):
        image = Image.open(io.BytesIO(original)).convert("RGB")
        draws = CropDraws(ResizedCropAugmentation(scale=scale), SEED, np.array([key_hash]), 0)
        with Image.open(io.BytesIO(data)) as header:
            box = draws.box(0, *header.size)
            across, down = image.width / header.width, image.height / header.height
        own = train_image(data, size=SIZE, box=partial(draws.box, 0)).astype(np.float64)
        place = box[0] * across, box[1] * down, box[2] * across, box[3] * down
        # Whole pixels are cut out first, as RandomResizedCrop does: its kernel does not reach beyond the box.
        view = image.crop(box) if source == photos else image
        pil = view.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=None if source == photos else place)
        difference = own - np.asarray(pil)
        decibels.append(10 * np.log10(255**2 / max(1e-10, float(np.square(difference).mean()))))
        differences.append(float(difference.mean()))
    return {
        "median_db": float(np.median(decibels)),
        "fifth_percentile_db": float(np.percentile(decibels, 5)),
        "mean_difference": float(np.mean(differences)),
    }


def goals(rates: dict[str, list[float]], psnr: dict[str, float], scale: tuple[float, float]) -> list[Goal]:
    """What the table asks, at one scale."""
    return [
        Goal(f"scale {scale}: images a second and core, ours over the PIL chain", ratio(rates[OURS], rates[PIL]), 2.2),
        Goal(
            f"scale {scale}: the same from short side 256, quality 90, over the PIL chain on the originals",
            ratio(rates[SMALL.format(90)], rates[PIL]),
            4,
        ),
        Goal(f"scale {scale}: PSNR to the PIL chain, median dB", psnr["median_db"], 60),
        Goal(f"scale {scale}: PSNR to the PIL chain, 5th percentile dB", psnr["fifth_percentile_db"], 53),
        Goal(
            f"scale {scale}: mean difference to the PIL chain, grey levels", abs(psnr["mean_difference"]), 0.05, False
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    options = parsed(parser(__doc__, photos=(3000, 24), images=(192, 8), rounds=(9, 1)), arguments)
    torch.set_num_threads(1)
    photos = photo_set(options.data, options.photos, 1 if options.quick else 2)
    sources = {OURS: photos, **{SMALL.format(quality): short_set(photos, quality) for quality in QUALITIES}}
    figures, tables, reached = {}, [], []
    for scale in SCALES:
        rates = speeds(photos, options.images, options.rounds, scale)
        psnr = {name: likeness(photos, source, options.images, scale) for name, source in sources.items()}
        rows = [
            [name, spread(values), number(ratio(values, rates[PIL])), shown(psnr.get(name))]
            for name, values in rates.items()
        ]
        head = [
            f"scale {scale}",
            "images/s/core: median (lowest..highest)",
            "ratio",
            "PSNR median / 5th percentile, dB; mean difference",
        ]
        tables.append(table(head, rows))
        figures[str(scale)] = {"images_per_second_and_core": rates, "psnr": psnr}
        reached += goals(rates, psnr[OURS], scale)
    sizes = {
        name: median([len(data) for data in encoded(source, options.images)[0]]) for name, source in sources.items()
    }
    save(NAME, options.out, {"images": options.images, "median_bytes": sizes, "scales": figures}, tables, reached)


def shown(psnr: dict[str, float] | None) -> str:
    """The three figures."""
    if psnr is None:
        return ""
    return f"{psnr['median_db']:.1f} / {psnr['fifth_percentile_db']:.1f}; {psnr['mean_difference']:+.3f}"


if __name__ == "__main__":
    main()
