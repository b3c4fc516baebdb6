"""Images to features: one shard at a time, decoded once, through several encoders. No Ray here.

A batch never crosses a shard and holds its samples in index order, so features do not depend on who extracts what.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.reader import ShardReader
from nml_ray.features.config import ExtractSettings
from nml_ray.features.plan import ExtractionPlan, ShardDone, WorkItem, keys_of, shard_files, shards_of
from nml_ray.features.store import as_stored, read_shard, verify_shard, write_shard
from nml_ray.features.sums import Sums
from nml_ray.models.decoding import Decoder, form
from nml_ray.models.encoder import load_encoder
from nml_ray.models.preprocess import normalised

Report = Callable[[int], None]
"""Called with the number of images that have just passed all encoders."""


class Extractor:
    """Holds the encoders of a plan; `extract` works on one shard. Close it, or use it in a `with` block."""

    def __init__(self, plan: ExtractionPlan) -> None:
        torch.set_num_threads(plan.threads)
        self.plan = plan
        self.settings = ExtractSettings.model_validate(plan.settings)
        self.encoders = [load_encoder(Path(encoder.directory)).to(plan.device) for encoder in plan.encoders]
        self._pool = ThreadPoolExecutor(plan.decode_threads, thread_name_prefix="decode")
        self._split = cache(self._open)
        self._readers: list[ShardReader] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads that decode and those that bring tars."""
        for reader in self._readers:
            reader.close()
        self._pool.shutdown(cancel_futures=True)

    def expect(self, items: Sequence[WorkItem]) -> None:
        """Bring the tars of items here before they are extracted, in this order, where they lie on an object store."""
        for split, shards in groupby(items, lambda item: item.split):
            dataset, reader, numbers = self._split(split)
            if dataset.files.remote:
                reader.prefetch(
                    np.concatenate([numbers[item.shard] for item in shards]), share=2
                )  # while splits change

    def extract(self, item: WorkItem, report: Report = lambda images: None) -> ShardDone:
        """Write features and sums of one shard for the item's encoders.

        Features that cannot be stored (not finite, float16 overflow) fail their encoder alone.

        Raises:
            UserError: an image cannot be decoded.
        """
        dataset, reader, shards = self._split(item.split)
        numbers = shards[item.shard]
        values = self._forward(dataset, reader, numbers, item.encoders, report)
        keys = keys_of(dataset, numbers)
        failures = {}
        for place in item.encoders:
            try:
                self._write(place, item, keys, dataset.label[numbers].astype(np.int64), values[place])
            except UserError as error:
                failures[place] = str(error)
        return ShardDone(item.split, item.shard, len(numbers), failures)

    def _open(self, split: str) -> tuple[Dataset, ShardReader, dict[str, NDArray[np.int64]]]:
        dataset = Dataset.open(Path(self.plan.data) / split)
        self._readers.append(ShardReader(dataset, open_files=1))
        return dataset, self._readers[-1], dict(shards_of(dataset))

    @torch.inference_mode()
    def _forward(
        self,
        dataset: Dataset,
        reader: ShardReader,
        numbers: NDArray[np.int64],
        places: Sequence[int],
        report: Report,
    ) -> dict[int, NDArray[np.float32]]:
        """Features float32 [N, dim] by the place of the encoder."""
        encoders = {place: self.encoders[place] for place in places}
        values = {place: np.empty((len(numbers), encoder.dim), np.float32) for place, encoder in encoders.items()}
        forms = list(dict.fromkeys(form(encoder.input) for encoder in encoders.values()))
        decoder = Decoder(dataset, reader, forms, self._pool)
        start = 0
        for images in decoder.batches(numbers, self.settings.batch):
            stop = start + len(images[forms[0]])
            for place, encoder in encoders.items():
                batch = normalised(images[form(encoder.input)], encoder.input, self.plan.device)
                values[place][start:stop] = encoder(batch).float().cpu().numpy()
            report(stop - start)
            start = stop
        return values

    def _write(
        self, place: int, item: WorkItem, keys: list[str], labels: NDArray[np.int64], values: NDArray[np.float32]
    ) -> None:
        features, sums_file = shard_files(Path(self.plan.encoders[place].attempt), item.split, item.shard)
        stored = as_stored(values, self.settings.dtype, str(features))
        write_shard(features, keys, labels, stored, self.settings.dtype)
        sums = Sums(values.shape[1], self.plan.transforms)
        for start in range(0, len(stored), self.settings.batch):
            sums.add(stored[start : start + self.settings.batch])
        sums.save(sums_file)


def extract_all(plan: ExtractionPlan, items: Sequence[WorkItem], report: Report) -> list[ShardDone]:
    """Work on all items in this process, one after another."""
    if not items:
        return []
    with Extractor(plan) as extractor:
        extractor.expect(items)
        return [extractor.extract(item, report) for item in items]


def facts_of(plan: ExtractionPlan, place: int, items: Sequence[WorkItem]) -> dict[str, Any]:
    """Prove that an encoder's files hold one row a sample, and sum them up for `features.json`.

    Raises:
        UserError: rows are missing, doubled or foreign.
    """
    directory = Path(plan.encoders[place].attempt)
    samples: dict[str, int] = {}
    dim = 0
    for split in dict.fromkeys(item.split for item in items):
        dataset = Dataset.open(Path(plan.data) / split)
        for shard, numbers in shards_of(dataset):
            features, _ = shard_files(directory, split, shard)
            verify_shard(features, keys_of(dataset, numbers))
            dim = read_shard(features).values.shape[1]
        samples[split] = len(dataset.good)
    dtype = ExtractSettings.model_validate(plan.settings).dtype
    return {"samples": samples, "dim": dim, "dtype": dtype, "transforms": list(plan.transforms)}
