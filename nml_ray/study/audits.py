"""The pre-training runs of a study, or of one artifact, with all that their audit reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nml_ray.config.errors import UserError
from nml_ray.data.config import NoiseArm
from nml_ray.data.files import files_of
from nml_ray.pretrain.audit import AuditedRun
from nml_ray.storage.artifact import Artifact, Store
from nml_ray.storage.link import followed
from nml_ray.study.execute import JOB, plan_job, read_run
from nml_ray.study.expand import given_stage
from nml_ray.study.listing import read_stages
from nml_ray.study.sources import dataset_identity
from nml_ray.study.stage import digests
from nml_ray.study.sweep_table import TABLE, artifacts_of
from nml_ray.study.version import links_of

KIND = "pretrain"


@dataclass(frozen=True)
class StudyRuns:
    """The finished pre-training runs of a study, arm by arm, and the names of those that are not finished."""

    runs: list[AuditedRun] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)


def runs_of_study(directory: Path) -> StudyRuns:
    """The runs of a study, from the directory that it left.

    Raises:
        UserError: its job or data cannot be read, or it pre-trains nothing.
    """
    job = read_run(directory)
    links = links_of(directory, job.model_dump(mode="json"))
    if job.sweep:
        return _runs_of_sweep(directory, links)
    planned = {name: one for name, one in plan_job(job)[1].items() if one.stage.kind == KIND}
    if not planned:
        raise UserError(f"study '{job.name}' pre-trains nothing", where="RUN", expected="a study with pre-training")
    store = Store(directory.parent.parent)
    made = read_stages(directory) or {}
    found = StudyRuns()
    for name, one in planned.items():
        left = made[name].digest if name in made else one.digest
        artifact = store.artifact(KIND, left) or store.artifact(KIND, one.digest)
        if artifact:
            found.runs.append(_audited(artifact, store, links))
        else:
            found.unfinished.append(name)
    arms = list(dict.fromkeys(_arm(run) for run in found.runs))
    found.runs.sort(key=lambda run: arms.index(_arm(run)))
    return found


def _runs_of_sweep(directory: Path, links: Path) -> StudyRuns:
    """What the trials of a sweep have trained, each once."""
    table, store = directory / TABLE, Store(directory.parent.parent)
    if not table.exists():
        raise UserError("its sweep has not ended", where="RUN", expected="a sweep all of whose trials have ended")
    found = StudyRuns()
    for digest in artifacts_of(table, KIND):
        if artifact := store.artifact(KIND, digest):
            found.runs.append(_audited(artifact, store, links))
        else:
            found.unfinished.append(f"{KIND}/{digest}")
    return found


def _arm(run: AuditedRun) -> str:
    return run.name.rpartition("/")[0]


def run_of_artifact(directory: Path) -> AuditedRun:
    """The run of one pretrain artifact; what its user gave is looked up in the studies of its storage.

    Raises:
        UserError: it is none, or no study beside it knows its data.
    """
    directory = directory.resolve()
    store = Store(directory.parent.parent)
    artifact = store.artifact(directory.parent.name, directory.name)
    if artifact is None or artifact.kind != KIND:
        raise UserError(f"'{directory}' is no artifact of pre-training", where="RUN", expected=f".../{KIND}/<hash>")
    for job in sorted((store.root / "studies").glob(f"*/{JOB}")):
        try:
            runs = runs_of_study(job.parent).runs
        except UserError:
            continue
        for run in runs:
            if run.directory == artifact.place.parent:
                return run
    return _audited(artifact, store, None)


def _audited(artifact: Artifact, store: Store, given: Path | None) -> AuditedRun:
    record = artifact.record
    arm = NoiseArm.from_hashed(record["settings"]["noise"])
    data = _input(record, "shards", store, given and given / "shards" / "pretrain")
    if data is None:
        raise UserError(
            f"the data of {artifact.kind}/{artifact.digest} was given by path, and no study in {store.root} names it",
            where="RUN",
            expected="the study that made it",
        )
    labels = _input(record, "labels", store, given and given / "labels" / arm.name)
    return AuditedRun(
        record.get("stage", f"{artifact.kind}/{artifact.digest}"),
        artifact.evidence().parent,
        record,
        data / "pretrain",
        str(labels / "labels.parquet") if labels else "",
        _ledger(record, store),
        _other_data(record, store, data / "pretrain"),
    )


def _other_data(record: Mapping[str, Any], store: Store, directory: Path) -> str:
    """How the data in a directory is told from that which a run's record names; "" where it is the same."""
    name = record["inputs"]["shards"]
    kind, _, known = name.partition("/")
    now = files_of(directory).info().digest
    if artifact := store.artifact(kind, known):
        made = artifact.record["splits"]["pretrain"]["digest"]
        return "" if now == made else f"its digest is {now}, that of {name} was {made}"
    layout = record["settings"]["pretrain"]["order"]["kind"] == "lanes"
    identity = dataset_identity("pretrain", followed(directory), layout)
    stage = given_stage(name, kind, {"given": {"pretrain": identity}})
    (digest,) = digests({name: stage}).values()
    return "" if digest == known else f"its digest is {now}, which makes it {kind}/{digest}; the record names {name}"


def _input(record: Mapping[str, Any], role: str, store: Store, given: Path | None) -> Path | None:
    """The directory of an artifact that the run read: in the store, or the study's links to what the user gave."""
    name = record["inputs"].get(role)
    if name is None:
        return None
    kind, _, digest = name.partition("/")
    artifact = store.artifact(kind, digest)
    return artifact.path if artifact else given


def _ledger(record: Mapping[str, Any], store: Store) -> Path | None:
    """ledger.parquet of the same noise over the same data, if the store has it."""
    inputs = {role: name for role, name in record["inputs"].items() if role in ("shards", "labels")}
    for digest in store.digests("ledger"):
        found = store.artifact("ledger", digest)
        known = found.record if found else {"settings": {"noise": None}}
        if found and known["settings"]["noise"] == record["settings"]["noise"] and known["inputs"] == inputs:
            return found.path / "ledger.parquet"
    return None
