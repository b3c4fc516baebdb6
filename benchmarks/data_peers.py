"""The loaders that ours is measured against, as their documentation has them. Needs nothing of nml_ray.

`data_loader.py` runs this file in a process of its own, in another environment where a loader needs one:

    python benchmarks/data_peers.py streaming DATA --workers 2        prints one line of JSON

The chain of transforms is the one of timm, open_clip and torchvision's references: PIL decodes, RandomResizedCrop
(bicubic), flip, ToTensor, Normalize.
"""

import argparse
import io
import json
import os
import resource
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader

SIZE = 224
SCALE = (0.08, 1.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHUFFLE = 1000


def pil_chain(scale: tuple[float, float] = SCALE) -> Callable[[bytes], torch.Tensor]:
    """Encoded bytes to float32 [3, 224, 224]."""
    from torchvision import transforms  # 100 MB, which the measurement of our memory need not carry

    steps = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, scale, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return lambda data: steps(Image.open(io.BytesIO(data)).convert("RGB"))


def two_cores() -> None:
    """This process, its threads and its children run on two cores, whatever the machine has."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    torch.set_num_threads(1)


def cpu_seconds() -> float:
    """CPU of this process and of its children that have ended."""
    own, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def timed(batches: Callable[[], Iterable[int]]) -> dict[str, float]:
    """Figures of one pass: `batches` makes an iterable of batch sizes; its making and its end are in the time."""
    cpu, began, first, images = cpu_seconds(), time.perf_counter(), 0.0, 0
    for size in batches():
        first = first or time.perf_counter() - began
        images += size
    return {
        "images": images,
        "images_per_second": images / (time.perf_counter() - began),
        "cpu_ms_per_image": 1000 * (cpu_seconds() - cpu) / images,
        "first_batch_seconds": first,
    }


def webdataset_samples(data: Path, decode: Callable[[bytes], Any], shuffle: int = SHUFFLE, skip: int = 0) -> Any:
    """webdataset's pipeline over the tars of a directory; `skip` samples are read and thrown away first."""
    import webdataset

    def skipped(samples: Iterator[Mapping[str, bytes]]) -> Iterator[Mapping[str, bytes]]:
        for _ in range(skip):
            next(samples)
        return samples

    paths = [str(path) for path in sorted(data.glob("*.tar"))]
    samples = webdataset.WebDataset(paths, shardshuffle=len(paths) if shuffle else False)
    if shuffle:
        samples = samples.shuffle(shuffle)
    return samples.compose(skipped).map(lambda sample: (decode(sample["jpg"]), int(sample["cls"])))


def from_webdataset(data: Path, batch: int, workers: int) -> Iterator[int]:
    """One epoch through DataLoader's worker processes."""
    loader = DataLoader(webdataset_samples(data, pil_chain()), batch_size=batch, num_workers=workers)
    return (len(labels) for _, labels in loader)


def mds_set(tars: Path) -> Path:
    """The same samples as MDS shards, in this directory's neighbour; made if they are not there."""
    from streaming import MDSWriter  # type: ignore[import-not-found]

    out = tars.with_name(tars.name + "-mds")
    if not (out / "index.json").exists():
        with MDSWriter(out=str(out), columns={"image": "bytes", "label": "int"}) as writer:
            for path in sorted(tars.glob("*.tar")):
                with tarfile.open(path) as tar:
                    members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
                for name in sorted(members):
                    if name.endswith(".jpg"):
                        label = int(members[name.replace(".jpg", ".cls")])
                        writer.write({"image": members[name], "label": label})
    return out


def from_streaming(data: Path, batch: int, workers: int) -> Iterator[int]:
    """One epoch of mosaicml-streaming through DataLoader's worker processes."""
    from streaming import StreamingDataset

    class Images(StreamingDataset):
        """Samples decoded and augmented."""

        chain = staticmethod(pil_chain())

        def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
            sample = super().__getitem__(number)
            return self.chain(sample["image"]), sample["label"]

    dataset = Images(local=str(data), shuffle=True, batch_size=batch)
    return (len(labels) for _, labels in DataLoader(dataset, batch_size=batch, num_workers=workers))


PEERS = {"webdataset": from_webdataset, "streaming": from_streaming}
PACKAGES = {"webdataset": "webdataset", "streaming": "mosaicml-streaming"}


def main() -> None:
    """Run one loader over the tars of a directory and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("data", type=Path)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    two_cores()
    data = mds_set(options.data) if options.peer == "streaming" else options.data
    figures = timed(lambda: PEERS[options.peer](data, options.batch, options.workers))
    used = {name: metadata.version(name) for name in ("torch", "torchvision", "pillow", PACKAGES[options.peer])}
    json.dump({**figures, "python": sys.version.split()[0], "versions": used}, sys.stdout)


if __name__ == "__main__":
    main()
