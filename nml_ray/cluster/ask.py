"""How a submission stands: its cluster is asked first, and what it left on storage where the cluster is gone."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from nml_ray.cluster import registry, watch
from nml_ray.cluster.backend import MODULES, Backend, backend_of
from nml_ray.cluster.config import cluster_of
from nml_ray.cluster.record import Record, record_of, submissions_on
from nml_ray.cluster.submission import Status, Submission
from nml_ray.config.errors import UserError, nearest_name
from nml_ray.storage.digest import canonical_json
from nml_ray.storage.patience import Patience

_NO_ANSWER = "; this is what it left on storage"
UNKNOWN = "unknown"  # kind of a cluster of which nothing was kept
_ONCE = Patience(total=0)
_SHORT = Patience(total=5)


@dataclass(frozen=True)
class Standing:
    """How a submission stands, and what had to be said on the way: that the cluster does not answer."""

    status: Status
    notes: tuple[str, ...] = ()


def find(id: str, storage: str | None = None) -> Submission:
    """A submission by its id, a unique beginning of it, or `last`.

    Args:
        id: what the user gave.
        storage: where to look for one that was made elsewhere; those of this machine when None.

    Raises:
        UserError: there is none, or there are several; the storage cannot be reached.
    """
    if storage is None:
        return registry.find(id)
    names = submissions_on(storage)
    if id == "last":
        found = max((kept(storage, name) for name in names), key=lambda one: one.submitted, default=None)
        matching = [found.id] if found else []
    else:
        matching = [name for name in names if name == id] or [name for name in names if name.startswith(id)]
    if len(matching) > 1:
        some = ", ".join(matching[:3])
        raise UserError(f"{len(matching)} submissions begin with '{id}'", where="ID", expected=f"one of {some}")
    if not matching:
        raise UserError(
            f"no submission '{id}' left its record there",
            where=storage,
            expected=f"an id that `nml-ray list --storage {storage}` shows",
            nearest=nearest_name(id, names),
        )
    return kept(storage, matching[0])


def kept(storage: str, id: str) -> Submission:
    """A submission as its record has it; with little more than its name where only its supervisor wrote there."""
    found = watch.submission_of(record_of(storage, id))
    if found is not None:
        return replace(found, storage=storage)
    return Submission(id, id.rsplit("-", 3)[0], {"kind": UNKNOWN}, storage, (), "", "")


def backend(submission: Submission) -> Backend | None:
    """What knows the cluster of a submission; None where nothing of the cluster was kept."""
    return backend_of(cluster_of(submission.cluster)) if submission.kind in MODULES else None


def standing(submission: Submission, silent: str = "") -> Standing:
    """How a submission stands, by its cluster or else by its record; `lost` where neither says.

    Args:
        submission: which.
        silent: why its cluster need not be asked: it has just not answered.
    """
    notes = [silent] if silent else []
    known = backend(submission)
    if known is not None and not silent:
        try:
            if found := known.status(submission):
                return Standing(_with_message(found, submission))
            notes.append(f"{submission.kind}: the cluster does not know it (any more), its storage does")
        except UserError as error:
            notes.append(f"{error}{_NO_ANSWER}")
    try:
        if found := watch.status_of(_record(submission), _SHORT):
            return Standing(found, tuple(notes))
        notes.append(f"{submission.storage}: nothing was left there")
    except UserError as error:
        notes.append(str(error))
    return Standing(Status("lost", "neither its cluster nor its storage knows of it", None, "storage"), tuple(notes))


def survey(submissions: Sequence[Submission]) -> list[Standing]:
    """How many submissions stand, side by side where their clusters differ; the end of one is asked for once."""
    groups: dict[str, list[Submission]] = {}
    for one in submissions:
        groups.setdefault(canonical_json(one.cluster), []).append(one)
    with ThreadPoolExecutor(8) as pool:
        found = {id: one for group in pool.map(_survey_cluster, groups.values()) for id, one in group.items()}
    return [found[one.id] for one in submissions]


def _survey_cluster(submissions: Sequence[Submission]) -> dict[str, Standing]:
    found = {}
    silent = ""
    for one in submissions:
        if ended := registry.end_of(one.id):
            found[one.id] = Standing(ended)
            continue
        found[one.id] = standing(one, silent)
        silent = next((note for note in found[one.id].notes if note.endswith(_NO_ANSWER)), silent)
        if found[one.id].status.state in ("succeeded", "failed", "stopped"):
            registry.remember_end(one.id, found[one.id].status)
    return found


def _with_message(status: Status, submission: Submission) -> Status:
    """What a cluster says, with what the job last printed where the cluster has no words of its own."""
    if status.message:
        return status
    try:
        told = watch.status_of(_record(submission), _ONCE)
    except UserError:
        return status
    return replace(status, message=told.message) if told and told.state != "lost" else status


def log(submission: Submission) -> tuple[str, str]:
    """What the job has printed until now, by its cluster, or by its record where that has ended or has nothing (any
    more); and what had to be said on the way.

    Raises:
        UserError: neither can be read.
    """
    ended, note = registry.end_of(submission.id) is not None, ""
    known = None if ended else backend(submission)
    if known is not None:
        try:
            if text := known.printed(submission):
                return text, ""
        except UserError as error:
            note = f"{error}{_NO_ANSWER}"
    try:
        text = watch.Tail(_record(submission)).more(_SHORT)
    except UserError as error:
        if note:
            raise UserError(f"{note.removesuffix(_NO_ANSWER)}; nor can its storage be read: {error}") from None
        if not ended:
            raise
        text = ""
    if ended and not text and (known := backend(submission)):
        text = known.printed(submission)
    return text, note


def follow(submission: Submission) -> Iterator[str]:
    """What the job prints as it comes, to its end: from the cluster, or from the record where the cluster is gone.

    Raises:
        UserError: neither can be reached.
    """
    known = backend(submission)
    if known is not None:
        try:
            there = known.status(submission) is not None
        except UserError:
            there = False
        if there:
            yield from known.follow(submission)
            return
    record = _record(submission)
    status = watch.watched(record)
    yield from watch.follow(record, lambda: status() or Status("lost"))


def _record(submission: Submission) -> Record:
    return record_of(submission.storage, submission.id)
