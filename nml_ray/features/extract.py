"""Images, or captions, to features: one shard at a time, decoded once, through several encoders. No Ray here.

A batch never crosses a shard and holds its samples in index order, so features do not depend on who extracts what.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from nml_ray.data.views import Views
from nml_ray.features.config import ExtractSettings
from nml_ray.features.forward import Forward
from nml_ray.features.plan import ExtractionPlan, ShardDone, WorkItem, keys_of, publish_shard, shard_files, shards_of
from nml_ray.features.store import as_stored, read_shard, verify_shard, write_shard
from nml_ray.features.sums import Sums
from nml_ray.models.decoding import Decoder, Spec, as_batch, form
from nml_ray.models.device import ready_device
from nml_ray.models.encoder import TextEncoder, load_encoder

NAMED = 20  # of the samples that were left out, in features.json

Report = Callable[[int], None]
"""Called with the number of images that have just passed all encoders."""


class Extractor:
    """Holds the encoders of a plan; `extract` works on one shard. Close it, or use it in a `with` block."""

    def __init__(self, plan: ExtractionPlan) -> None:
        torch.set_num_threads(plan.threads)
        self.plan = plan
        self.settings = ExtractSettings.model_validate(plan.settings)
        self.forward = Forward(ready_device(plan.device), self.settings.precision)
        self.encoders = [load_encoder(Path(encoder.directory)).to(self.forward.device) for encoder in plan.encoders]
        if self.settings.views > 1 and any(isinstance(encoder, TextEncoder) for encoder in self.encoders):
            raise UserError("several views of texts", where="extract.views", expected="1 for encoders of texts")
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
        values, skipped = self._forward(dataset, reader, numbers, item, report)
        failures = {}
        for place in item.encoders:
            bad = skipped(self.encoders[place].input)
            kept = ~np.isin(numbers, list(bad))
            rows = Rows(
                keys_of(dataset, numbers[kept]),
                dataset.label[numbers[kept]].astype(np.int64),
                {dataset.key(number): bad[number] for number in sorted(bad)},
            )
            try:
                self._write(place, item, rows, values[place] if kept.all() else values[place][:, kept])
            except UserError as error:
                failures[place] = str(error)
        return ShardDone(item.split, item.shard, len(numbers), failures)

    def _open(self, split: str) -> tuple[Dataset, ShardReader, dict[str, NDArray[np.int64]]]:
        dataset = Dataset.open(Path(self.plan.data) / split)
        self._readers.append(ShardReader(dataset, open_files=1))
        return dataset, self._readers[-1], dict(shards_of(dataset))

    def _forward(
        self,
        dataset: Dataset,
        reader: ShardReader,
        numbers: NDArray[np.int64],
        item: WorkItem,
        report: Report,
    ) -> tuple[dict[int, NDArray[np.float32]], Callable[[Spec], Mapping[int, str]]]:
        """Features float32 [V, N, dim] by the place of the encoder; and of an input the samples to leave out."""
        encoders = {place: self.encoders[place] for place in item.encoders}
        forms = list(dict.fromkeys(form(encoder.input) for encoder in encoders.values()))
        views = views_of(self.settings, item.split)
        decoder = Decoder(dataset, reader, forms, self._pool, views, skip=self.settings.undecodable == "skip")
        shape = (views.count, len(numbers))
        values = {place: np.empty((*shape, encoder.dim), np.float32) for place, encoder in encoders.items()}
        start = 0
        for inputs in decoder.batches(numbers, self.settings.batch):
            stop = start + inputs[forms[0]].shape[1]
            for place, encoder in encoders.items():
                for view, batch in enumerate(inputs[form(encoder.input)]):
                    brought = as_batch(self.forward.bring(batch), encoder.input, self.forward.device)
                    self.forward.give(encoder, brought, values[place][view, start:stop])
            self.forward.take(left=views.count * len(encoders))
            report(stop - start)
            start = stop
        self.forward.take()
        return values, decoder.skipped

    def _write(self, place: int, item: WorkItem, rows: "Rows", values: NDArray[np.float32]) -> None:
        """Leave features [V, N, D] and the sums of view 0."""
        features, sums_file = shard_files(Path(self.plan.encoders[place].attempt), item.split, item.shard)
        dim = values.shape[2]
        stored = as_stored(values.reshape(-1, dim), self.settings.dtype, str(features)).reshape(values.shape)
        write_shard(features, rows.keys, rows.labels, stored, self.settings.dtype, rows.skipped)
        sums = Sums(dim, self.plan.transforms)
        for start in range(0, len(rows.keys), self.settings.batch):
            sums.add(stored[0, start : start + self.settings.batch])
        sums.save(sums_file)
        publish_shard(features, sums_file)


@dataclass(frozen=True)
class Rows:
    """The samples of a shard that have a row, and those that are left out, with the reasons."""

    keys: list[str]
    labels: NDArray[np.int64]
    skipped: Mapping[str, str]


def views_of(settings: ExtractSettings, split: str) -> Views:
    """The views of a split's images: only those of `train` have several."""
    return Views(settings.views if split == "train" else 1, settings.augmentation, settings.seed)


def extract_all(plan: ExtractionPlan, items: Sequence[WorkItem], report: Report) -> list[ShardDone]:
    """Work on all items in this process, one after another."""
    if not items:
        return []
    with Extractor(plan) as extractor:
        extractor.expect(items)
        return [extractor.extract(item, report) for item in items]


def facts_of(plan: ExtractionPlan, place: int, items: Sequence[WorkItem]) -> dict[str, Any]:
    """Prove that an encoder's files hold one row a sample and view, and sum them up for `features.json`.

    Raises:
        UserError: rows are missing, doubled or foreign; a split without any.
    """
    directory, settings = Path(plan.encoders[place].attempt), ExtractSettings.model_validate(plan.settings)
    samples: dict[str, int] = {}
    undecodable: dict[str, dict[str, str]] = {}
    dim = 0
    for split in dict.fromkeys(item.split for item in items):
        dataset = Dataset.open(Path(plan.data) / split)
        for shard, numbers in shards_of(dataset):
            features, _ = shard_files(directory, split, shard)
            skipped = verify_shard(features, keys_of(dataset, numbers), views_of(settings, split).count)
            undecodable.setdefault(split, {}).update(skipped)
            dim = read_shard(features).values.shape[1]
        samples[split] = len(dataset.good) - len(undecodable[split])
        if not samples[split]:
            why = next(iter(undecodable[split].values()), "all are known to be bad, see its dataset.json")
            raise UserError(f"none of {len(dataset)} samples of {split} can be decoded ({why})", where=plan.data)
    facts = {"samples": samples, "dim": dim, "dtype": settings.dtype, "transforms": list(plan.transforms)}
    if settings.views > 1:
        facts["views"] = settings.views
    if settings.undecodable == "skip":
        facts["undecodable"] = {split: _counted(skipped) for split, skipped in undecodable.items() if skipped}
    return facts


def _counted(skipped: Mapping[str, str]) -> dict[str, Any]:
    return {"count": len(skipped), "first": dict(list(skipped.items())[:NAMED])}
