"""The Ray Data shell of extraction: one row a shard, an actor pool that holds the encoders, small rows back.

Bytes, pixels and features never pass through Ray: an actor reads its shards and writes their features itself. A shard
whose actor or node dies is given to another actor; files are written aside and renamed, so nothing is left half done.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from queue import Empty, SimpleQueue
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from nml_ray.config.errors import UserError
from nml_ray.config.shared import Shared
from nml_ray.features.plan import ExtractionPlan, ShardDone, WorkItem

TRIES = 3  # of a shard whose tar or target cannot be reached
PAUSE = 5.0  # seconds before the next try
PATIENCE = 600.0  # seconds that an extraction waits for a node with room for an actor; Ray Data waits for ever
LOOK = 5.0  # seconds between two looks at nodes while nothing comes

ShardReport = Callable[[ShardDone], None]


def extract_on_ray(
    plan: ExtractionPlan,
    items: Sequence[WorkItem],
    workers: tuple[int, int],
    report: ShardReport,
    patience: float = PATIENCE,
) -> list[ShardDone]:
    """Extract all items with actors that reserve `plan.cpus` and `plan.gpus` each.

    `workers` says how many: the least to begin with (fewer where the cluster has no room), the most that there may be
    while work waits; Ray asks a cluster that grows by itself for room. `report` hears of every shard when it is done.
    `patience` is how long, in seconds, no node may have room for an actor.

    Raises:
        UserError: a mistake of the user's that an actor found; no GPU for device cuda; no room.
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
        for row in _while_there_is_room(results, plan, patience):
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


def _while_there_is_room(dataset: ray.data.Dataset, plan: ExtractionPlan, patience: float) -> Iterator[Any]:
    """The rows of a data set as they come, read in a thread.

    Raises:
        UserError: no node has had room for an actor for `patience` seconds, as when nodes were lost.
    """
    read = SimpleQueue[tuple[Any, BaseException | None]]()
    threading.Thread(target=_read, args=(dataset.iter_rows(), read), name="extract", daemon=True).start()
    since = None
    while True:
        try:
            row, end = read.get(timeout=min(LOOK, patience))
        except Empty:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            since = None if has_room(plan, nodes) else since or time.monotonic()
            if since and time.monotonic() - since >= patience:
                error = _no_room(plan, patience)
                _end(dataset, error)
                raise error from None
            continue
        if isinstance(end, StopIteration):
            return
        if end:
            raise end
        yield row


def _read(rows: Iterable[Any], read: "SimpleQueue[tuple[Any, BaseException | None]]") -> None:
    try:
        for row in rows:
            read.put((row, None))
        read.put((None, StopIteration()))
    except BaseException as error:
        read.put((None, error))


def _end(dataset: ray.data.Dataset, error: Exception) -> None:
    """End an execution that waits; Ray Data has no way for that but to let go of the data set, which is being read."""
    for thread in threading.enumerate():
        if isinstance(thread, StreamingExecutor) and thread.name.endswith(dataset.get_dataset_id()):
            thread.shutdown(force=True, exception=error)


def has_room(plan: ExtractionPlan, nodes: Sequence[Mapping[str, float]]) -> bool:
    """Whether one of the nodes, by all that it has, is large enough for an actor."""
    return any(node.get("CPU", 0) >= plan.cpus and node.get("GPU", 0) >= plan.gpus for node in nodes)


def _no_room(plan: ExtractionPlan, patience: float) -> UserError:
    need = f"{plan.cpus} CPUs" + (f" and {plan.gpus:g} GPUs" if plan.gpus else "")
    return UserError(
        f"for {patience / 60:.0f} minutes the cluster has had no node with {need}, as a process of extraction needs",
        where="run.extract_workers",
        expected="larger nodes (run.wait_minutes waits longer for them), or fewer threads or run.decode_threads",
    )


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
