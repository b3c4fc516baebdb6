"""From a job and a cluster file to what is sent: read, checked and packed before anything leaves this machine."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nml_ray.cli.options import find_cluster, find_job
from nml_ray.cluster.backend import Backend, backend_of
from nml_ray.cluster.collect import collect
from nml_ray.cluster.config import AnyCluster, ClusterSettings, read_cluster
from nml_ray.cluster.package import Package
from nml_ray.cluster.record import JOB, SUBMISSION, record_of
from nml_ray.cluster.submission import Submission, new_id
from nml_ray.config.document import Document
from nml_ray.config.errors import UserError
from nml_ray.storage.location import Location, locate
from nml_ray.storage.patience import Patience

if TYPE_CHECKING:
    from nml_ray.study.job import Job

SHARED = ("local", "slurm")  # kinds whose machines have the files of this one
_BRIEFLY = Patience(total=5)


@dataclass(frozen=True)
class Prepared:
    """All that a backend needs, and the job as it was understood.

    Attributes:
        backend, submission, package: what is sent, and by whom.
        job: with the storage of the submission.
        document: of the job, for places.
        cluster: where to.
        where: the flag or setting that names the storage, for messages.
        target: stage up to which it runs; "" for all.
        inline: in one process, without Ray.
    """

    backend: Backend
    submission: Submission
    package: Package
    job: "Job"
    document: Document
    cluster: AnyCluster
    where: str
    target: str = ""
    inline: bool = False

    @property
    def storage(self) -> Location:
        """Where the job leaves its artifacts."""
        return locate(self.submission.storage)

    @property
    def sees_storage(self) -> bool:
        """Whether this machine sees what lies there as the cluster's machines do."""
        return self.storage.remote or self.cluster.kind in SHARED


def open_cluster(cluster: str) -> tuple[AnyCluster, Document]:
    """The cluster of a file, its code's directory absolute."""
    settings, document = read_cluster(find_cluster(cluster))
    directory = str(Path(os.path.expanduser(settings.code.directory)).absolute())
    code = settings.code.model_copy(update={"directory": directory})
    return settings.model_copy(update={"code": code}), document


def prepare(
    job: str,
    cluster: str,
    assignments: tuple[str, ...] = (),
    storage: str | None = None,
    target: str = "",
    inline: bool = False,
) -> Prepared:
    """What would be submitted, under a new id.

    Raises:
        UserError: a file that is wrong; storage that the cluster's machines cannot mean; code that cannot be sent.
    """
    from nml_ray.study.job import read_job

    job_file = find_job(job)
    settings, document = read_job(job_file, assignments)
    chosen, cluster_document = open_cluster(cluster)
    where = storage_place(storage, chosen, cluster_document, document)
    place = _storage(storage or chosen.storage or settings.run.storage, where, chosen)
    leave = [Path(os.path.abspath(text)) for text in (settings.run.storage, str(place)) if "://" not in text]
    collected = collect(chosen.code, job_file, leave)
    if chosen.kind != "local":
        _refuse_relative_data(document, collected.package, Path(chosen.code.directory))
    options = [item for assignment in assignments for item in ("--set", assignment)]
    options += ["--until", target] if target else []
    options += ["--inline"] if inline else []
    submission = Submission(
        id=new_id(settings.name),
        job=settings.name,
        cluster=chosen.model_dump(mode="json", exclude_unset=True),
        storage=str(place),
        arguments=(collected.job, *options),
        code=collected.package.digest,
        submitted=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    run = settings.run.model_copy(update={"storage": str(place)})
    job_there = settings.model_copy(update={"run": run})
    sent = backend_of(chosen), submission, collected.package
    return Prepared(*sent, job_there, document, chosen, where, target, inline)


def storage_place(storage: str | None, cluster: ClusterSettings, cluster_document: Document, job: Document) -> str:
    """The flag or setting that names a submission's storage, for messages."""
    if storage is not None:
        return "--storage"
    return cluster_document.where(("storage",)) if cluster.storage else job.where(("run", "storage"))


def _storage(text: str, where: str, cluster: AnyCluster) -> Location:
    place = locate(text, where)
    if place.remote:
        return place
    if cluster.kind == "local":
        return Location("", str(Path(os.path.expanduser(place.path)).absolute()))
    if not os.path.isabs(place.path):
        raise UserError(
            f"storage '{place.path}' is relative, and the machines of the cluster have another directory",
            where=where,
            expected="--storage, or storage: in the cluster file, with a URL or an absolute path that they see",
        )
    return place


def _refuse_relative_data(document: Document, package: Package, directory: Path) -> None:
    """Refuse relative paths of files that lie here and do not travel."""
    sent = {file.name for file in package.files}
    for path, text in texts_of(document.data, ()):
        if path[:1] == ("run",) or os.path.isabs(text) or not ("/" in text or Path(text).suffix):
            continue
        if "://" in text or "\n" in text or len(text) > 400 or not os.path.exists(text):
            continue
        below = os.path.relpath(os.path.realpath(text), os.path.realpath(directory)).replace(os.sep, "/")
        if below in sent or any(name.startswith(f"{below}/") for name in sent):
            continue
        raise UserError(
            f"{'.'.join(map(str, path))} = {text} lies on this machine and is not sent",
            where=document.where(path),
            expected="an absolute path or a URL that the cluster's machines see",
        )


def texts_of(data: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every text in a document, with its place."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from texts_of(value, (*path, key))
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from texts_of(value, (*path, number))
    elif isinstance(data, str):
        yield path, data


def keep_record(submission: Submission, job: "Job") -> str:
    """Leave a submission's record on its storage; one line on why that could not be done, or ""."""
    import yaml

    storage = locate(submission.storage)
    if not storage.remote and submission.kind not in SHARED and not storage.local.is_dir():
        return f"{storage} is not on this machine: the job leaves its own record there"
    record = record_of(submission.storage, submission.id)
    try:
        record.write_json(SUBMISSION, submission.to_data(), _BRIEFLY)
        text = yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        record.write(JOB, text.encode(), _BRIEFLY)
    except UserError as error:
        return f"{error}: only the job itself leaves a record there"
    return ""


def send(prepared: Prepared) -> tuple[Submission, str]:
    """Hand a job over; it is known on this machine from the moment before.

    Returns:
        What was sent; one line on why this machine could not keep what its cluster calls it, or "".

    Raises:
        UserError: the cluster refuses it; this machine cannot remember submissions, and nothing was sent.
    """
    from nml_ray.cluster import registry
    from nml_ray.cluster.ask import sender

    registry.remember(replace(prepared.submission, handle=sender()))
    try:
        handle = prepared.backend.submit(prepared.submission, prepared.package)
    except Exception:  # Ctrl-C may come when it has been sent
        registry.forget(prepared.submission.id)
        raise
    submission = replace(prepared.submission, handle=dict(handle))
    try:
        registry.remember(submission)
    except UserError as error:
        name = ", ".join(f"{key} {value}" for key, value in handle.items())
        return submission, f"{submission.id} was sent; its cluster's name for it ({name}) is not kept here: {error}"
    return submission, ""
