"""The Ray Data shell of extraction: one row a shard, an actor pool that holds the encoders, small rows back.

Bytes, pixels and features never pass through Ray: an actor reads its shards and writes their features itself. A shard
whose actor or node dies is given to another actor; files are written aside and renamed, so nothing is left half done.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from nml_ray.config.errors import UserError
from nml_ray.config.shared import Shared
from nml_ray.features.plan import ExtractionPlan, ShardDone, WorkItem

TRIES = 3  # of a shard whose tar or target cannot be reached
PAUSE = 5.0  # seconds before the next try

ShardReport = Callable[[ShardDone], None]


def extract_on_ray(
    plan: ExtractionPlan, items: Sequence[WorkItem], workers: tuple[int, int], report: ShardReport
) -> list[ShardDone]:
    """Extract all items with actors that reserve `plan.cpus` and `plan.gpus` each.

    `workers` says how many: the least to begin with (fewer where the cluster has no room), the most that there may be
    while work waits; Ray asks a cluster that grows by itself for room. `report` hears of every shard when it is done.

    Raises:
        UserError: a mistake of the user's that an actor found, or no GPU for device cuda.
    """
    if not items:
        return []
    least, most = (min(count, len(items)) for count in workers)
    size = min(most, actors_that_fit(plan, ray.cluster_resources()))
    texts = [json.dumps(asdict(item)) for item in items]
    # whichever actor of a machine works on it next, it finds the tar in the machine's cache
    ahead = size if len([node for node in ray.nodes() if node["Alive"]]) == 1 else len(items)
    rows = [{"item": text, "coming": "".join(texts[n + ahead : n + ahead + 1])} for n, text in enumerate(texts)]
    done = []
    with _quiet():
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _ShardWorker,
            fn_constructor_args=(plan.carried(),),
            batch_size=1,
            compute=_pool(least, most, size),
            num_cpus=plan.cpus,
            num_gpus=plan.gpus or None,
        )
        for row in results.iter_rows():
            if row["error"]:
                raise UserError(str(row["error"]))
            done.append(_shard_done(json.loads(str(row["done"]))))
            report(done[-1])
    return done


def _pool(least: int, most: int, size: int) -> ActorPoolStrategy:
    """Actors: `size` of them, or, where there may be a number of them, from `least` up to `most`."""
    if least == most:
        return ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2)
    return ActorPoolStrategy(min_size=min(least, size), max_size=most, max_tasks_in_flight_per_actor=2)


def actors_that_fit(plan: ExtractionPlan, cluster: Mapping[str, float]) -> int:
    """Actors for which a cluster has CPUs and GPUs; at least one, for which Ray may wait.

    Raises:
        UserError: the cluster has too few GPUs for one; it would wait for ever.
    """
    fitting = cluster.get("CPU", 0) // plan.cpus
    if plan.gpus:
        there = cluster.get("GPU", 0)
        if there < plan.gpus:
            expected = f"at least {plan.gpus:g} (run.extract_gpus)"
            raise UserError(f"the cluster has {there:g} GPUs", where="run.device: cuda", expected=expected)
        share = (1 + 1e-9) // plan.gpus  # actors that share a GPU; 1 // 0.1 is 9
        fitting = min(fitting, there * share if share else there // plan.gpus)
    return max(1, int(fitting))


class _ShardWorker:
    """The actor: loads every encoder once, then works on shards."""

    def __init__(self, plan: ExtractionPlan) -> None:
        from nml_ray.features.extract import Extractor

        self._error = ""
        try:
            self._extractor = Extractor(plan.arrived())
        except UserError as error:
            self._error = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        item, *coming = [_work_item(str(batch[name][0])) for name in ("item", "coming") if batch[name][0]]
        try:
            if self._error:
                raise UserError(self._error)
            done = _persistent(lambda: self._extract(item, coming))
        except UserError as error:
            return {"done": [""], "error": [str(error)]}
        return {"done": [json.dumps(asdict(done))], "error": [""]}

    def _extract(self, item: WorkItem, coming: Sequence[WorkItem]) -> ShardDone:
        self._extractor.expect([item, *coming])
        return self._extractor.extract(item)


def _persistent(work: Callable[[], ShardDone]) -> ShardDone:
    for _ in range(TRIES - 1):
        try:
            return work()
        except OSError:
            time.sleep(PAUSE)
    return work()


def _work_item(text: str) -> WorkItem:
    data = json.loads(text)
    return WorkItem(**{**data, "encoders": tuple(data["encoders"])})


def _shard_done(data: dict[str, Any]) -> ShardDone:
    return ShardDone(**{**data, "failures": {int(place): why for place, why in data["failures"].items()}})


def _hush() -> Callable[[], None]:
    """Without Ray Data's progress bars, tips and banners; returns what undoes it."""
    context = DataContext.get_current()
    logger = logging.getLogger("ray.data")
    kept = context.enable_progress_bars, context.print_on_execution_start, logger.level
    context.enable_progress_bars = context.print_on_execution_start = False
    logger.setLevel(logging.ERROR)

    def undo() -> None:
        context.enable_progress_bars, context.print_on_execution_start, level = kept
        logger.setLevel(level)

    return undo


_quiet = Shared(_hush)  # extractions run side by side
