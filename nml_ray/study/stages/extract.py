"""The extract stage: features of the downstream images for every encoder, or features from elsewhere brought in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nml_ray.data.dataset import Dataset
from nml_ray.features.leak import refuse_leaks
from nml_ray.features.plan import EncoderPlan, ExtractionPlan, ShardDone, WorkItem, all_items, left_to_do, splits_of
from nml_ray.storage.atomic import write_json
from nml_ray.storage.digest import canonical_json
from nml_ray.storage.twin import SHARDS, bring_bundles
from nml_ray.study.stages import shared_sets
from nml_ray.study.stages.apart import Apart
from nml_ray.study.task import Context, Task

FACTS_FILE = "features.json"


def run(tasks: Sequence[Task], context: Context) -> None:
    """Extract for all tasks that read the same images in one pass; each becomes an artifact of its own.

    Raises:
        UserError: a mistake in the data of each of them, or in their settings.
    """
    apart, passes = Apart(), dict[tuple[str, str], list[Task]]()
    for task in tasks:
        if "features" in task.inputs:
            with apart.of(task):
                _import(task)
        else:
            images = str(task.inputs["shards"].path)
            passes.setdefault((images, canonical_json(dict(task.stage.settings))), []).append(task)
    for (images, _), together in passes.items():
        with apart.of(*together):
            _extract(images, together, context)
    apart.sound(tasks)


def _import(task: Task) -> None:
    from nml_ray.features.importing import import_features

    settings = task.stage.settings
    # Messages name the user's own files, not the links to them; where those are links too, their names say the kind.
    links = {path.stem: path for path in task.inputs["features"].path.iterdir()}
    paths = {split: links[split].readlink() for split in settings["splits"]}
    facts = import_features(paths, task.attempt.path, transforms=settings["transforms"])
    _finish(task, facts)


def _extract(images: str, tasks: Sequence[Task], context: Context) -> None:
    settings = tasks[0].stage.settings
    plan = ExtractionPlan(
        data=images,
        settings=settings["extract"],
        transforms=tuple(settings["transforms"]),
        encoders=tuple(_encoder(task) for task in tasks),
        threads=context.threads,
        decode_threads=context.run.decode_threads,
        device=context.run.device,
        gpus=context.run.extract_gpus if context.run.device == "cuda" else 0,
    )
    for task in tasks:
        for attempt in task.attempt.earlier:
            bring_bundles(attempt, SHARDS)
    splits = splits_of(plan)
    for task in tasks:
        shared_sets.take(task, Path(images), splits, context.store)
    refuse_leaks({split: Dataset.open(Path(images) / split) for split in splits})
    items = all_items(plan)
    done = _work(plan, items, tasks, context)
    failures = {place: f"{shard.split}/{shard.shard}: {why}" for shard in done for place, why in shard.failures.items()}

    from nml_ray.features.extract import facts_of

    for place, task in enumerate(tasks):
        if place in failures:
            task.attempt.fail(failures[place])
        else:
            bring_bundles(task.attempt.path, SHARDS)  # where other machines made them
            _finish(task, facts_of(plan, place, items))
            shared_sets.offer(task, Path(images), splits, context.store)


def _encoder(task: Task) -> EncoderPlan:
    earlier = tuple(str(path) for path in task.attempt.earlier)
    return EncoderPlan(task.stage.name, str(task.inputs["encoder"].path), str(task.attempt.path), earlier)


def _work(
    plan: ExtractionPlan, items: Sequence[WorkItem], tasks: Sequence[Task], context: Context
) -> Sequence[ShardDone]:
    left = left_to_do(plan, items)
    total = sum(item.rows for item in items)
    passed = total - sum(item.rows for item in left)

    def report(images: int) -> None:
        nonlocal passed
        passed += images
        for task in tasks:
            task.attempt.progress(passed, total, "images")

    report(0)
    if not left:
        return []
    if context.inline:
        from nml_ray.features.extract import extract_all

        return extract_all(plan, left, report)
    context.start_ray()
    from nml_ray.features.ray_data import PATIENCE, extract_on_ray

    workers = context.run.least_extract_workers, context.run.most_extract_workers
    patience = max(PATIENCE, 60 * context.run.wait_minutes)
    return extract_on_ray(plan, left, workers, lambda shard: report(shard.rows), patience)


def _finish(task: Task, facts: dict[str, Any]) -> None:
    write_json(Path(task.attempt.path) / FACTS_FILE, facts)
    task.attempt.finish(**facts)
