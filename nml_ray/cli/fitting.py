"""Whether a job fits the cluster that it is for: what `plan --cluster` tells, and `submit` refuses, before anything is
sent. Refused is what is certain; what another machine may know better is said."""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from nml_ray.cli.submitting import SHARED, Prepared, texts_of
from nml_ray.cluster.size import Size, of_nodes, size_of_cluster
from nml_ray.config.document import Document
from nml_ray.config.errors import UserError, nearest_name
from nml_ray.data.dataset_info import FILE
from nml_ray.models.given import NotHere
from nml_ray.storage.artifact import Store
from nml_ray.storage.location import locate
from nml_ray.storage.patience import NoAccess
from nml_ray.storage.shard_cache import size_text
from nml_ray.study import refusals
from nml_ray.study.execute import plan_study, stages_of, store_of
from nml_ray.study.expand import VERSIONS, Study
from nml_ray.study.graph import ordered, until
from nml_ray.study.job import Job
from nml_ray.study.plan import Planned, plan
from nml_ray.study.room import Misfit, misfits

if TYPE_CHECKING:
    from nml_ray.study.feed import Feed

ALL = ("pretrain", "extract", "heads")
_UPSTREAM: Mapping[str, Collection[str]] = {
    "extract": ("pretrain", "extract"),
    "spectrum": ("pretrain", "extract"),
    "heads": ALL,
    "report": ALL,
}
_MOST_ZIPPED = 100 << 20  # bytes that a job server takes


@dataclass
class Fitting:
    """A job on its way to a cluster.

    Attributes:
        prepared: what would be sent.
        warnings: what is to be said and may go well all the same.
        unknown: why the stages cannot be told from here, or "".
        reached: whether the storage answers, where `refuse_storage` has looked.
    """

    prepared: Prepared
    warnings: list[str] = field(default_factory=list)
    unknown: str = ""
    reached: bool = True

    @cached_property
    def study(self) -> Study | None:
        """The stages; None where their data lies where this machine does not see it (`unknown` says what).

        Raises:
            UserError: mistakes of the job and its data; there is no such stage as the target.
        """
        one = self.prepared
        if one.job.sweep and one.target:
            raise UserError("a sweep has no single stage", where="--until", expected="a job without 'sweep'")
        absent = () if one.cluster.kind == "local" else _elsewhere(one.document)
        self.unknown = next(iter((*absent, *_not_indexed(one.job))), "")
        if self.unknown:
            _refuse_kind(one.target)
            return None
        try:
            study = stages_of(one.job)
        except (NoAccess, NotHere) as error:
            if one.cluster.kind == "local" or (isinstance(error, NoAccess) and one.cluster.kind in SHARED):
                raise
            self.unknown = str(error)
            _refuse_kind(one.target)
            return None
        if one.target:
            until(ordered(study.stages), one.target)
        return study

    @property
    def store(self) -> Store | None:
        """Where artifacts lie; None where that does not answer here."""
        return store_of(self.prepared.job) if self.reached else None

    @cached_property
    def planned(self) -> Mapping[str, Planned]:
        """The plan, of stages that can be told; what is cached is known only where `certain`."""
        if self.study is None:
            return {}
        if self.store:
            return plan_study(self.study, self.store, self.prepared.target)
        stages = ordered(self.study.stages)
        stages = until(stages, self.prepared.target) if self.prepared.target else stages
        return plan(stages.values(), lambda kind, digest: False, self.study.given)

    def to_do(self) -> set[str]:
        """Kinds of stages that are to do, as far as is known: at most these."""
        if self.study is None:
            kind = self.prepared.target.partition("/")[0]
            return set(_UPSTREAM.get(kind, (kind,) if kind else ALL))
        return {one.stage.kind for one in self.planned.values() if one.state == "to do"}

    @property
    def here(self) -> bool:
        """Whether the job runs on this machine, by this interpreter."""
        cluster = self.prepared.cluster
        return cluster.kind == "local" and "python" not in cluster.model_fields_set

    @property
    def certain(self) -> bool:
        """Whether stages that count as to do are."""
        return self.study is not None and self.prepared.sees_storage and self.reached

    @cached_property
    def size(self) -> Size | None:
        """Of the cluster; None where nobody tells it."""
        cluster, job = self.prepared.cluster, self.prepared.job
        size = size_of_cluster(cluster)
        if cluster.kind == "local" and size:
            (node,) = size.nodes
            # Ray is told of more CPUs than there are where a worker needs them: they share, see `execute`.
            cpus = max(float(job.run.cpus or node["CPU"]), float(job.least_cpus()))
            return Size(({**node, "CPU": cpus},), size.enlarge)
        if cluster.kind == "address":
            from nml_ray.cluster.address import Cluster

            assert isinstance(self.prepared.backend, Cluster)
            try:
                return of_nodes(self.prepared.backend.nodes())
            except UserError as error:
                self.warnings.append(f"room: not looked at: {error}")
        return size

    def room(self) -> tuple[list[str], dict[str, str]]:
        """What is said of the room that the stages have, in lines; and the mistakes of single trials of a sweep.

        Raises:
            UserError: the cluster has no room for what is to do.
        """
        one, size = self.prepared, self.size
        if size is None:
            return [], {}
        if one.job.sweep:
            return self._room_of_trials(size)
        wrong, lines = misfits(one.job, one.document, size, self.to_do(), one.inline)
        for misfit in wrong:
            if self._certain(misfit, size):
                raise misfit.error
            self.warnings.append(f"room: not now, unless it is made already: {misfit.error}")
        return lines, {}

    def _room_of_trials(self, size: Size) -> tuple[list[str], dict[str, str]]:
        from nml_ray.study.sweep import first_asked, none_is_right
        from nml_ray.study.sweep_room import trial_misfits

        one = self.prepared
        found, lines = trial_misfits(one.job, one.document, size, self.to_do(), one.inline)
        wrong = {name: str(all_[0].error) for name, all_ in found.items() if self._certain(all_[0], size)}
        if wrong and len(wrong) == len(first_asked(one.job)):
            raise none_is_right(wrong)
        for name, all_ in found.items():
            if name not in wrong:
                self.warnings.append(f"room: trial {name}: not now, unless it is made already: {all_[0].error}")
        return lines, wrong

    def _certain(self, misfit: Misfit, size: Size) -> bool:
        """Whether a stage waits for ever. A cluster that runs may grow: pre-training refuses at once to wait for that
        unless `run.wait_minutes` says so."""
        waits = size.now and (misfit.kind != "pretrain" or self.prepared.job.run.wait_minutes > 0)
        return self.certain and not waits

    def refuse_storage(self) -> str:
        """What is known of the storage, in a line.

        Raises:
            UserError: it cannot be written; one that does not answer here may answer the cluster's machines.
        """
        one = self.prepared
        if not one.sees_storage:
            return f"storage: {one.storage} lies on the cluster's machines, and is not looked at from here"
        try:
            refusals.refuse_storage(one.storage, one.where)
        except NoAccess as error:
            if one.cluster.kind in SHARED:
                raise
            self.reached = False
            self.warnings.append(f"storage: not from here, perhaps from the cluster's machines: {error}")
            return ""
        return f"storage: {one.storage} can be written"

    def refuse_encoders(self) -> None:
        """Refuse encoders that no library has, and on this machine trackers and libraries that are not there.

        Raises:
            UserError: at the place in the job file.
        """
        from nml_ray.study.encoder_names import OWN, refuse_encoders
        from nml_ray.study.machine_check import refuse_trackers

        one = self.prepared
        if self.here:
            refuse_trackers(one.job, one.document)
        if one.job.sweep or self.study is None:
            return
        names = [one.job.pretrain.encoder.name] if one.job.pretrain else []
        names += [encoder.name for encoder in one.job.encoders]
        libraries = {name.partition(":")[0] for name in names if name != OWN and ":" in name}
        if not self.here and (missing := [name for name in sorted(libraries) if find_spec(name) is None]):
            self.warnings.append(
                f"encoder: {missing[0]} is not installed here, so names of its encoders are not checked"
            )
            return
        refuse_encoders(one.job, one.document, self.planned)

    def feeding(self) -> tuple[Any, "Feed | None", dict[str, str]]:
        """Where the training data is and how it will be fed, as far as it is there; mistakes of single trials of a
        sweep.

        Raises:
            UserError: pre-training has too few samples for a batch; no trial is right.
        """
        from nml_ray.study.feed import feed_of, training_data

        one = self.prepared
        if self.study is None:
            return None, None, {}
        data = training_data(self.study, self.planned, self.store)
        if one.job.sweep:
            from nml_ray.study.sweep_points import wrong_points

            trackers = self.here
            wrong = wrong_points(one.job, one.document, device=False, trackers=trackers) if self.reached else {}
            return data, None, wrong
        return data, feed_of(one.job, one.document, data) if data else None, {}

    def refuse_disk(self) -> list[str]:
        """What is said of the disk, in lines.

        Raises:
            UserError: it has no room for the checkpoints.
        """
        one = self.prepared
        arms = self.arms()
        if not arms or one.storage.remote or not self.certain:
            return []
        assert one.job.pretrain
        from nml_ray.pretrain.estimate import estimate_of

        if (size := estimate_of(one.job.pretrain)) is None:
            return [f"disk: of {one.job.pretrain.encoder.name} nothing is known without building it"]
        needed = refusals.checkpoint_bytes(one.job, size.parameters, arms)
        return [refusals.refuse_disk(one.storage.local, needed, one.where)]

    def arms(self) -> int:
        """Runs of single arms of pre-training that are to do; of a sweep those that are known, each once."""
        return sum(one.stage.kind == "pretrain" and one.state == "to do" for one in self.planned.values())

    def package(self) -> str:
        """The code, in a line.

        Raises:
            UserError: a job server does not take it.
        """
        one = self.prepared
        size = one.package.size
        if one.cluster.kind in ("address", "launcher") and size > _MOST_ZIPPED:
            from nml_ray.cluster.address import archive

            if (zipped := len(archive(one.package)[1])) > _MOST_ZIPPED:
                raise UserError(
                    f"the code is {size_text(zipped)} as a zip, and a job server takes 100 MiB",
                    where=one.cluster.code.directory,
                    expected="code.exclude in the cluster file to leave files out, or a smaller code.directory",
                )
        if one.cluster.kind == "kuberay":
            one.backend.render(one.submission, one.package)  # refuses what is too large for Kubernetes
        return f"code: {len(one.package.files):,} files, {size_text(size)}, of at most {one.cluster.code.limit}"


def refuse_misfit(prepared: Prepared) -> tuple[list[str], dict[str, str]]:
    """All that is refused before a job is sent; warnings, and mistakes of single trials of a sweep.

    Raises:
        UserError: what cannot run there, with the fix.
    """
    fitting = Fitting(prepared)
    fitting.package()
    fitting.refuse_storage()
    if fitting.study is None:
        fitting.warnings.append(f"stages: not looked at: {fitting.unknown}")
    fitting.refuse_encoders()
    wrong = fitting.feeding()[2] | fitting.room()[1]
    fitting.refuse_disk()
    return fitting.warnings, wrong


def _refuse_kind(target: str) -> None:
    kinds = list(VERSIONS)
    if target and (kind := target.partition("/")[0]) not in kinds:
        raise UserError(
            f"no stage '{target}' in this job",
            where="--until",
            expected="one of " + ", ".join(kinds),
            nearest=nearest_name(kind, kinds),
        )


def _not_indexed(job: Job) -> Iterator[str]:
    """Directories of tars that the job itself will index, which may take long: a user waits for this."""
    shards = job.data.shards.splits() if job.data and job.data.shards else {}
    for split, text in shards.items():
        place = locate(text)
        if not place.remote and not (place.local / FILE).exists() and any(place.local.glob("*.tar")):
            yield f"data.shards.{split} = {text} is not indexed, see `nml-ray data index`"


def _elsewhere(document: Document) -> Iterator[str]:
    """Absolute paths of a job's data that are not on this machine: of the section `run` nothing is data."""
    for path, text in texts_of(document.data, ()):
        if path[:1] != ("run",) and os.path.isabs(text) and "\n" not in text and not os.path.exists(text):
            yield f"{'.'.join(map(str, path))} = {text} is not on this machine"
