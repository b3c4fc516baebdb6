"""The report stage: the results of a study's artifacts as one page, CSV files and the headline for the terminal.

Leaves report.html, *.csv and headline.txt. Settings: `name`, `title`, `arms` (a list of `ratio`, `kind`, `seed` and
`roles`: ledger, pretrain, spectrum, heads to the role of the artifact, as far as the job has them), `data` (split
to the role of the artifact that holds it) and, of a job with downstream tasks, `tasks` (a list of `name`, `title`,
`metric`, `chance`, `counts_for`, `shards`, the role of its data, and `arms` of the task); of the best trial of a sweep
`sweep` (the fields of `SweepFacts`); where tasks failed `lacking`, their titles.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from nml_ray.analysis.report import headline, write_report
from nml_ray.analysis.results import (
    ArmResult,
    EpochCurve,
    HeadScore,
    Spectrum,
    SplitFacts,
    StudyResult,
    SweepFacts,
    SweepTrial,
    TaskResult,
)
from nml_ray.config.settings import exact_ratio
from nml_ray.data.dataset_info import DatasetInfo, read_info
from nml_ray.storage.artifact import Artifact, Store
from nml_ray.storage.atomic import read_json
from nml_ray.study.execute import HEADLINE
from nml_ray.study.stages.heads import RESULTS_FILE, read_scores
from nml_ray.study.stages.spectrum import SPECTRUM_FILE
from nml_ray.study.task import Context, Task
from nml_ray.tasks.config import ood_split

USES = {
    "pretrain": "to pre-train on; the only labels that noise is put on",
    "pretrain_validation": "to measure the accuracy of pre-training with",
    "train": "to fit the heads",
    "validation": "to choose each head's settings",
    "test": "in domain, read once",
    "ood": "out of domain, read once",
}


def run(tasks: Sequence[Task], context: Context) -> None:
    """Write the report of every task."""
    for task in tasks:
        result = study_result(task, context.store)
        write_report(result, task.attempt.path)
        (task.attempt.path / HEADLINE).write_text("\n".join(headline(result)) + "\n", encoding="utf-8")
        task.attempt.finish()


def study_result(task: Task, store: Store) -> StudyResult:
    """What the artifacts of a report's inputs hold. `store` is asked for those that they were made from."""
    settings = task.stage.settings
    arms = [arm_result(arm, task.inputs) for arm in settings["arms"]]
    infos = {
        split: read_info(task.inputs[role].path / split)
        for split, role in settings["data"].items()
        if (task.inputs[role].path / split).exists()
    }
    origin = made_from(task.inputs, store, {**infos, **task_infos(task)})
    tasks = [task_result(one, task.inputs) for one in settings.get("tasks", ())]
    sweep = sweep_facts(settings["sweep"]) if "sweep" in settings else None
    facts = (split_facts(infos, arms), origin, tasks, sweep, settings.get("lacking", ()))
    return StudyResult(settings["name"], settings["title"], arms, *facts)


def sweep_facts(data: Mapping[str, Any]) -> SweepFacts:
    """A sweep from plain data."""
    return SweepFacts(data["metric"], [SweepTrial(**trial) for trial in data["trials"]])


def task_result(settings: Mapping[str, Any], inputs: Mapping[str, Artifact]) -> TaskResult:
    """One downstream task from the artifacts of its arms."""
    samples: dict[str, int] = {}
    for arm in settings["arms"]:
        if "heads" in arm["roles"]:
            samples |= inputs[arm["roles"]["heads"]].record.get("samples", {})
    if len(other := [split for split in samples if split.startswith(ood_split(""))]) == 1:
        samples["ood"] = samples[other[0]]
    return TaskResult(
        settings["name"],
        settings["title"],
        settings["metric"],
        [arm_result(arm, inputs) for arm in settings["arms"]],
        tuple(settings["counts_for"]),
        settings["chance"],
        samples,
    )


def task_infos(task: Task) -> dict[str, DatasetInfo]:
    """What dataset.json says of the shard sets of tasks, for their sources and licences."""
    return {
        f"{one['name']} {path.name.removesuffix('.link.json')}": read_info(
            path.with_name(path.name.removesuffix(".link.json"))
        )
        for one in task.stage.settings.get("tasks", ())
        for path in sorted(task.inputs[one["shards"]].path.iterdir())
    }


def arm_result(arm: Mapping[str, Any], inputs: Mapping[str, Artifact]) -> ArmResult:
    """One arm from those of its artifacts that exist. Noise without a ratio gets the share that it realised."""
    paths = {kind: inputs[role].path for kind, role in arm["roles"].items()}
    realised = float(read_json(paths["ledger"] / "summary.json")["realised"]) if "ledger" in paths else 0.0
    return ArmResult(
        ratio=exact_ratio(f"{realised:.4f}") if arm["ratio"] is None else arm["ratio"],
        realised=realised,
        seed=arm["seed"],
        kind=arm["kind"],
        spectra=read_spectra(paths["spectrum"]) if "spectrum" in paths else (),
        curves=read_curves(paths["pretrain"]) if "pretrain" in paths else (),
        **(of_fractions(read_heads(paths["heads"])) if "heads" in paths else {}),
    )


def of_fractions(scores: Sequence[HeadScore]) -> dict[str, Sequence[HeadScore]]:
    """The heads that tables show, fitted on the largest data fraction, and all where there are several fractions."""
    shares = sorted({score.fraction for score in scores}, key=float)
    shown = [score for score in scores if score.fraction == shares[-1]]
    return {"heads": shown, "fractions": scores if len(shares) > 1 else ()}


def read_spectra(directory: Path) -> list[Spectrum]:
    """spectrum.json of a spectrum artifact."""
    found = read_json(directory / SPECTRUM_FILE)
    return [Spectrum(split, name, **one) for split, transforms in found.items() for name, one in transforms.items()]


def read_curves(directory: Path) -> list[EpochCurve]:
    """curves.parquet of a pretrain artifact, by epoch."""
    rows = pq.read_table(directory / "curves.parquet").to_pylist()
    return sorted((EpochCurve(**row) for row in rows), key=lambda curve: curve.epoch)


def read_heads(directory: Path) -> list[HeadScore]:
    """results.json of a heads artifact."""
    return read_scores(directory / RESULTS_FILE)


def split_facts(infos: Mapping[str, DatasetInfo], arms: Sequence[ArmResult]) -> list[SplitFacts]:
    """Good samples and classes of every split; where only features are given, the rows that were measured."""
    facts = [
        SplitFacts(split, info.samples - len(info.known_bad), len(info.classes), USES.get(split, ""))
        for split, info in infos.items()
    ]
    measured = {one.split: one.count for arm in arms for one in arm.spectra if one.split not in infos}
    facts += [SplitFacts(split, count, 0, USES.get(split, "")) for split, count in measured.items()]
    order = list(USES)
    return sorted(facts, key=lambda one: (order.index(one.name) if one.name in order else len(order), one.name))


def made_from(inputs: Mapping[str, Artifact], store: Store, infos: Mapping[str, DatasetInfo]) -> dict[str, Any]:
    """Settings, versions, machine, stages and sources, in the shape that `analysis.report.made` reads."""
    artifacts = with_ancestors(list(inputs.values()), store)
    records = [artifact.record for artifact in artifacts]
    kinds = dict.fromkeys(artifact.kind for artifact in artifacts)
    settings = {
        kind: merged([a.record["settings"] for a in artifacts if a.kind == kind and "settings" in a.record])
        for kind in kinds
    }
    return {
        "settings": {kind: found for kind, found in settings.items() if found},
        "versions": merged([record["versions"] for record in records if "versions" in record]),
        "machine": merged([record["machine"] for record in records if "machine" in record]),
        "stages": [
            {
                "name": artifact.record.get("stage", f"{artifact.kind}, given"),
                "kind": artifact.kind,
                "digest": artifact.digest,
                "seconds": artifact.record.get("seconds"),
            }
            for artifact in artifacts
        ],
        "sources": sources(infos),
    }


def with_ancestors(artifacts: Sequence[Artifact], store: Store) -> list[Artifact]:
    """The artifacts and those they were made from, each once, by stage; given data has no ancestors."""
    known = {(artifact.kind, artifact.digest): artifact for artifact in artifacts}
    todo = list(artifacts)
    while todo:
        for name in todo.pop().record.get("inputs", {}).values():
            kind, _, digest = name.partition("/")
            found = None if (kind, digest) in known else store.artifact(kind, digest)
            if found:
                known[kind, digest] = found
                todo.append(found)
    order = ["shards", "ledger", "encoder", "pretrain", "extract", "spectrum", "heads"]

    def place(artifact: Artifact) -> tuple[int, list[str], str]:
        kind = order.index(artifact.kind) if artifact.kind in order else -1
        return kind, artifact.record.get("stage", "").split("/"), artifact.digest

    return sorted(known.values(), key=place)


def merged(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several mappings as one: where they differ, the different values as a list under `each of`."""
    keys = dict.fromkeys(key for one in settings for key in one)
    found: dict[str, Any] = {}
    for key in keys:
        values = [one[key] for one in settings if key in one]
        distinct = [value for i, value in enumerate(values) if value not in values[:i]]
        if len(distinct) == 1:
            found[key] = distinct[0]
        elif all(isinstance(value, Mapping) for value in distinct):
            found[key] = merged(distinct)
        else:
            found[key] = {"each of": distinct}
    return found


def sources(infos: Mapping[str, DatasetInfo]) -> list[dict[str, str]]:
    """Source and licence of the data; splits that share both are named together."""
    splits: dict[tuple[str, str], list[str]] = {}
    for split, info in infos.items():
        splits.setdefault((info.source, info.licence), []).append(split)
    return [
        {"split": ", ".join(names), "source": source, "licence": licence} for (source, licence), names in splits.items()
    ]
