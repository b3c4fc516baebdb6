"""The shards stage: the shipped icons become WebDataset tars, the way a user's images would."""

from collections.abc import Iterator, Sequence
from typing import Any

from nml_ray.data.dataset_info import DatasetInfo
from nml_ray.data.icons import source
from nml_ray.data.shards import Sample, write_shards
from nml_ray.study.task import Context, Task


def run(tasks: Sequence[Task], context: Context) -> None:
    """Write the tars, indices and dataset.json of every split."""
    for task in tasks:
        written: dict[str, Any] = {}
        for split in source.SPLITS:
            info = _write(task, split, sum(facts["samples"] for facts in written.values()))
            written[split] = {"samples": info.samples, "classes": len(info.classes), "digest": info.digest}
        (task.attempt.path / "NOTICE.md").write_text(source.notice(), encoding="utf-8")
        task.attempt.finish(splits=written)


def _write(task: Task, split: str, before: int) -> DatasetInfo:
    total = source.load().num_rows
    return write_shards(
        samples(split),
        task.attempt.path / split,
        samples_per_shard=task.stage.settings["shard_size"],
        classes=source.classes(split),
        source="icons that ship with nml_ray",
        licence=source.LICENCE,
        progress=lambda done, _: task.attempt.progress(before + done, total, "images"),
    )


def samples(split: str) -> Iterator[Sample]:
    """The icons of a split, labelled by the place of their class."""
    label = {name: number for number, name in enumerate(source.classes(split))}
    for row in source.split(source.load(), split).select(["key", "png", "class", "caption"]).to_pylist():
        yield Sample(row["key"], row["png"], "png", label[row["class"]], row["caption"])
