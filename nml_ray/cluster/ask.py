"""How a submission stands: its cluster is asked first, and what it left on storage where the cluster is gone.

A cluster is asked only if this machine submitted to it, or the user names it: asking takes lines from a cluster file,
and a token. What a record on storage says of its cluster is another's word."""

import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from nml_ray.cluster import registry, watch
from nml_ray.cluster.backend import MODULES, Backend, backend_of
from nml_ray.cluster.config import cluster_of
from nml_ray.cluster.fields import Unreadable
from nml_ray.cluster.record import Record, record_of, submissions_on
from nml_ray.cluster.submission import Status, Submission
from nml_ray.config.errors import UserError, nearest_name
from nml_ray.storage.digest import canonical_json
from nml_ray.storage.patience import PLANNING, Patience, at_most
from nml_ray.storage.pulse import process_started

_NO_ANSWER = "; this is what it left on storage"
UNKNOWN = "unknown"  # kind of a cluster of which nothing was kept
SENDER = "sender"  # in place of a handle while a submission is being sent
_ONE_ATTEMPT = ("local", "address", "launcher")  # kinds on which a job that has ended never begins again
_ONCE = Patience(total=0)
_SHORT = Patience(total=5)


@dataclass(frozen=True)
class Standing:
    """How a submission stands, and what had to be said on the way: that the cluster does not answer."""

    status: Status
    notes: tuple[str, ...] = ()


@dataclass
class Silence:
    """What has just not answered, and what was said of that: it is asked once."""

    cluster: str = ""
    storages: dict[str, str] = field(default_factory=dict)


def find(id: str, storage: str | None = None, cluster: Mapping[str, Any] | None = None) -> Submission:
    """A submission by its id, a unique beginning of it, or `last`.

    Args:
        id: what the user gave.
        storage: where to look for one that was made elsewhere; those of this machine when None.
        cluster: that the user names for it, which is asked then; that of the registry when None.

    Raises:
        UserError: there is none, or there are several; its record or the storage cannot be read.
    """
    found = registry.find(id) if storage is None else _find(id, storage)
    return found if cluster is None else _named(found, cluster)


def _find(id: str, storage: str) -> Submission:
    names = submissions_on(storage)
    if id == "last":
        readable = [one for one in (kept_or_flaw(storage, name) for name in names) if isinstance(one, Submission)]
        if readable:
            return max(readable, key=lambda one: one.submitted)
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
    """A submission as this machine knows it, or else as its record has it: its cluster is not asked then.

    Raises:
        UserError: its record cannot be read.
    """
    if mine := registry.kept(id):
        return replace(mine, storage=storage)
    found = watch.submission_of(record_of(storage, id))
    if found is None:  # only its supervisor wrote there
        return Submission(id, id.rsplit("-", 3)[0], {"kind": UNKNOWN}, storage, (), "", "")
    return replace(found, cluster={"kind": f"{found.kind} (not asked)"}, storage=storage)


def kept_or_flaw(storage: str, id: str) -> Submission | UserError:
    """`kept`, or why not."""
    try:
        return kept(storage, id)
    except UserError as error:
        return error


def _named(submission: Submission, cluster: Mapping[str, Any]) -> Submission:
    """A submission on the cluster that the user names; of another's handle no more is taken than a number."""
    if registry.kept(submission.id):
        return replace(submission, cluster=cluster)
    if cluster["kind"] == "local":
        raise UserError("a job on a machine of its own is asked for there", where="--cluster", expected="that machine")
    job = submission.handle.get("job", "")
    return replace(submission, cluster=cluster, handle={"job": job} if re.fullmatch("[0-9]{1,18}", job) else {})


def backend(submission: Submission) -> Backend | None:
    """What knows the cluster of a submission; None where nothing of the cluster is known, or it is not to be asked.

    Raises:
        UserError: this version does not understand its cluster.
    """
    if submission.kind not in MODULES:
        return None
    try:
        return backend_of(cluster_of(submission.cluster))
    except ValueError:
        raise UserError(
            "this version does not understand what was kept of its cluster",
            where=submission.id,
            expected="--cluster with a file of it",
        ) from None


def standing(submission: Submission, silence: Silence | None = None) -> Standing:
    """How a submission stands, by its cluster or else by its record; an end is remembered.

    Args:
        submission: which.
        silence: what need not be asked any more; what does not answer is added.
    """
    if ended := registry.end_of(submission.id):
        return Standing(ended)
    silence = silence or Silence()
    found, notes = _by_cluster(submission, silence)
    answered = not notes
    if found is None:
        found = _by_storage(submission, silence, notes, answered)
    final = found.source == "cluster" or answered or submission.kind in _ONE_ATTEMPT or found.state == "succeeded"
    if final and found.state in ("succeeded", "failed", "stopped"):
        registry.remember_end(submission.id, found)
    return Standing(found, tuple(notes))


def _by_cluster(submission: Submission, silence: Silence) -> tuple[Status | None, list[str]]:
    """What its cluster says, and why it does not."""
    if silence.cluster:
        return None, [silence.cluster]
    try:
        known = backend(submission)
        found = known.status(submission) if known else None
    except UserError as error:
        silence.cluster = f"{error}{_NO_ANSWER}"
        return None, [silence.cluster]
    return (_with_message(found, submission, silence) if found else None), []


def _by_storage(submission: Submission, silence: Silence, notes: list[str], answered: bool) -> Status:
    """What its record says, or what it means that there is none; what is to be said of that goes to `notes`."""
    storage = submission.storage
    try:
        if storage in silence.storages:
            raise UserError(silence.storages[storage])
        found = watch.status_of(_record(submission), _SHORT)
    except Unreadable as error:
        return Status("unreadable", str(error), None, "storage")
    except UserError as error:
        silence.storages[storage] = str(error)
        notes.append(str(error))
        return Status("unreadable", "its storage does not answer", None, "storage")
    if found:
        if answered and submission.kind in MODULES:
            notes.append(f"{submission.kind}: the cluster does not know it (any more), its storage does")
        return found
    if SENDER in submission.handle:
        return _unsent(submission.handle, answered)
    notes.append(f"{storage}: nothing was left there")
    return Status("lost", "neither its cluster nor its storage knows of it", None, "storage")


def sender() -> dict[str, str]:
    """What stands for a handle while this process sends a submission."""
    return {SENDER: str(os.getpid()), "process": str(process_started(os.getpid())), "from": socket.gethostname()}


def _unsent(handle: Mapping[str, str], answered: bool) -> Status:
    if handle["from"] != socket.gethostname():
        return Status("sending", f"from {handle['from']}, unless that was broken off", None, "storage")
    if process_started(int(handle[SENDER])) == int(handle["process"]):
        return Status("sending", "at this moment", None, "storage")
    if not answered:
        return Status("unreadable", "its sending was broken off, and its cluster does not answer", None, "storage")
    words = "its sending was broken off; neither its cluster nor its storage knows of it"
    return Status("not sent", words, None, "storage")


def survey(submissions: Sequence[Submission]) -> list[Standing]:
    """How many submissions stand, side by side where their clusters differ; what does not answer is asked once."""
    groups: dict[str, list[Submission]] = {}
    for one in submissions:
        groups.setdefault(canonical_json(one.cluster), []).append(one)

    def ask(group: Sequence[Submission]) -> dict[str, Standing]:
        silence = Silence()
        return {one.id: standing(one, silence) for one in group}

    with ThreadPoolExecutor(8) as pool:
        found = {id: one for group in pool.map(ask, groups.values()) for id, one in group.items()}
    return [found[one.id] for one in submissions]


def _with_message(status: Status, submission: Submission, silence: Silence) -> Status:
    """What a cluster says, with what the job last printed where the cluster has no words of its own."""
    if status.message or submission.storage in silence.storages:
        return status
    try:
        told = watch.status_of(_record(submission), _ONCE)
    except Unreadable:
        return status
    except UserError as error:
        silence.storages[submission.storage] = str(error)
        return status
    return replace(status, message=told.message) if told and told.state != "lost" else status


def log(submission: Submission) -> tuple[str, str]:
    """What the job has printed until now, by its cluster, or by its record where that has ended or has nothing (any
    more); and what had to be said on the way.

    Raises:
        UserError: neither can be read.
    """
    ended, note = registry.end_of(submission.id) is not None, ""
    try:
        known = None if ended else backend(submission)
        if known is not None and (text := known.printed(submission)):
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
    try:
        known = backend(submission)
        there = known is not None and known.status(submission) is not None
    except UserError:
        there = False
    if known is not None and there:
        yield from known.follow(submission)
        return
    record = _record(submission)
    with at_most(PLANNING):  # storage that does not answer at all is told soon; later it may be away for longer
        watch.status_of(record)
    status = watch.watched(record)
    silent = _unsent(submission.handle, True) if SENDER in submission.handle else Status("lost")
    yield from watch.follow(record, lambda: status() or silent)


def _record(submission: Submission) -> Record:
    return record_of(submission.storage, submission.id)
