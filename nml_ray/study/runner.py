"""Makes what a plan lacks: batch by batch, under leases, a failure stopping only what depends on it."""

import importlib
import signal
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nml_ray.config.errors import UserError
from nml_ray.storage.artifact import Artifact, Store
from nml_ray.storage.lease import Lease
from nml_ray.storage.link import Link, write_link
from nml_ray.storage.mirror import mirror_of
from nml_ray.storage.remote_lease import RemoteLease
from nml_ray.storage.twin import publish_directory, tell
from nml_ray.study.display import Display
from nml_ray.study.plan import Given, Planned
from nml_ray.study.record import machine, versions
from nml_ray.study.schedule import Schedule, batches_of
from nml_ray.study.side_by_side import run_side_by_side
from nml_ray.study.task import Context, StageFunction, Task

_WAIT = 0.5  # seconds between two looks at an artifact that another process is making
_WAIT_REMOTE = 5.0  # the same where each look is a request
ERROR_LOG = "error.log"


@dataclass(frozen=True)
class Failure:
    """Why a stage has no artifact; `log` holds the traceback, where it came to one. `mistake`: of the user's."""

    reason: str
    log: Path | None
    mistake: bool = False


@dataclass
class Outcome:
    """What a run made: the artifact of each stage, the failures, and the stages left out with what they lacked."""

    artifacts: dict[str, Artifact] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        """Take over what another has."""
        self.artifacts |= other.artifacts
        self.failures |= other.failures
        self.left_out |= other.left_out
        self.made += other.made

    @property
    def refused(self) -> bool:
        """Whether all that was tried of some kinds of stage, and nothing else, failed by mistakes of the user's."""
        kinds = {name.partition("/")[0] for name in self.failures}
        there = {artifact.kind for artifact in self.artifacts.values()}
        return bool(kinds) and not kinds & there and all(failure.mistake for failure in self.failures.values())


def run(
    plan: Mapping[str, Planned],
    context: Context,
    display: Display,
    given: Mapping[str, Given] | None = None,
    links: Path | None = None,
    one_by_one: Collection[str] = (),
    heard: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Make every artifact of the plan that does not exist: inline one batch after the other, on Ray side by side.

    Args:
        plan: See `plan.plan`.
        context: Handed to the stage functions.
        display: Where the run shows itself.
        given: The user's own data by stage name; linked under `links`, anew at each run, so that it may move.
        links: Directory for those links.
        one_by_one: Kinds of stage that are tried one by one where a batch failed as a whole.
        heard: called with what was there, after each batch with its part, and in the end with all if stages were left
            out.

    A stage that fails stops what depends on it and nothing else, also by a mistake of the user's.

    Raises:
        UserError: the storage cannot be reached; what was finished before stays, what runs beside it is stopped.
    """
    outcome = Outcome()
    for name, data in (given or {}).items():
        if name in plan:
            assert links is not None
            outcome.artifacts[name] = _link(plan[name], data, links / name)
    plan = _looked_at_again(plan, context.store, outcome)
    heard(outcome)
    lacking = {name: planned.stage for name, planned in plan.items() if planned.state == "to do"}
    schedule = Schedule(batches_of(lacking))

    def work_of(names: Sequence[str]) -> Callable[[Context, Display], Outcome] | None:
        ready = [name for name in names if not _leave_out(plan[name], outcome)]
        sources = {source for name in ready for source in plan[name].stage.inputs.values()}
        part = Outcome({source: outcome.artifacts[source] for source in sources})

        def work(context: Context, display: Display) -> Outcome:
            _make(ready, plan, context, display, part, plan[ready[0]].stage.kind in one_by_one)
            return part

        return work if ready else None

    def took(part: Outcome) -> None:
        outcome.add(part)
        heard(part)

    if context.inline:
        while not schedule.finished:
            number = schedule.start_next()
            if work := work_of(schedule.batches[number].names):
                took(work(context, display))
            schedule.end(number)
    else:
        run_side_by_side(schedule, work_of, took, context, display)
    if outcome.left_out:
        heard(outcome)
    return outcome


def _looked_at_again(plan: Mapping[str, Planned], store: Store, outcome: Outcome) -> dict[str, Planned]:
    """The plan, with what was removed since it was made to do again; what is there goes to the outcome.

    Who removes an artifact hides it, then looks which studies refer to it (see `garbage_removal`); here the study has
    said so before, and looks now. So one of the two notices.
    """
    store.hear()
    now = dict(plan)
    for name, planned in plan.items():
        if planned.state == "cached":
            if found := store.artifact(planned.stage.kind, planned.digest):
                outcome.artifacts[name] = found
            else:
                now[name] = replace(planned, state="to do")
    return now


def _leave_out(planned: Planned, outcome: Outcome) -> bool:
    for source in planned.stage.inputs.values():
        if source not in outcome.artifacts:
            outcome.left_out[planned.stage.name] = outcome.left_out.get(source, source)
            return True
    return False


def _link(planned: Planned, data: Given, directory: Path) -> Artifact:
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    travels = mirror_of(directory) is not None
    for name, target in data.links.items():
        if isinstance(target, Link):
            write_link(directory / name, target)
        else:
            (directory / name).symlink_to(target.absolute())
            if travels and target.is_dir():  # an object store holds no symbolic links
                write_link(directory / name, Link(str(target.absolute())))
    publish_directory(directory)
    record = {"given": {name: str(target) for name, target in data.links.items()}}
    return Artifact(planned.stage.kind, planned.digest, directory, record)


def _make(
    names: Sequence[str],
    plan: Mapping[str, Planned],
    context: Context,
    display: Display,
    outcome: Outcome,
    one_by_one: bool,
) -> None:
    """Make one batch; what another process is at work on is waited for, and taken over when that process dies."""
    waiting: set[str] = set()
    open_ = list(names)
    while open_:
        held = _take(open_, plan, context.store)
        try:
            _adopt(open_, plan, context.store, outcome)
            mine = [name for name in open_ if name in held and name not in outcome.artifacts]
            if mine:
                _call(mine, plan, context, display, outcome, one_by_one)
        finally:
            for mine_lease in held.values():
                mine_lease.release()
        open_ = [name for name in open_ if name not in outcome.artifacts and name not in outcome.failures]
        for name in open_:
            if name not in waiting:
                waiting.add(name)
                display.say(f"{name}: waiting for {_other(plan[name], context.store)}")
        if open_:
            time.sleep(_WAIT_REMOTE if context.store.mirror else _WAIT)


def _take(names: Sequence[str], plan: Mapping[str, Planned], store: Store) -> dict[str, Lease | RemoteLease]:
    held = {name: store.lease(plan[name].stage.kind, plan[name].digest) for name in names}
    return {name: one for name, one in held.items() if one}


def _adopt(names: Sequence[str], plan: Mapping[str, Planned], store: Store, outcome: Outcome) -> None:
    for name in names:
        found = store.artifact(plan[name].stage.kind, plan[name].digest)
        if found:
            outcome.artifacts[name] = found


def _other(planned: Planned, store: Store) -> str:
    holder = store.holder(planned.stage.kind, planned.digest)
    return f"process {holder.pid} on {holder.host}, which is making it" if holder else "another process"


def _call(
    names: Sequence[str],
    plan: Mapping[str, Planned],
    context: Context,
    display: Display,
    outcome: Outcome,
    one_by_one: bool,
) -> None:
    tasks = [_task(plan[name], context, outcome) for name in names]
    error, of_user = "", False
    with display.stage(title(tasks), [task.attempt.path for task in tasks]):
        try:
            with _interrupts():
                resolve(plan[names[0]].stage.function)(tasks, context)
        except UserError as mistake:
            error, text, of_user = str(mistake), traceback.format_exc(), True
        except Exception as raised:
            error = _one_line(raised)
            text = traceback.format_exc()
    for task in tasks:
        found = context.store.artifact(task.stage.kind, task.attempt.digest)
        if found:
            outcome.artifacts[task.stage.name] = found
            outcome.made.append(task.stage.name)
            continue
        if one_by_one and error and len(tasks) > 1 and not task.attempt.failure:
            _call([task.stage.name], plan, context, display, outcome, one_by_one)
            continue
        log = task.attempt.path / ERROR_LOG
        trace = text if error else task.attempt.trace
        log.write_text(trace or "The stage's function returned without finishing this attempt.\n")
        tell(log)
        reason = task.attempt.failure or error or "ended without a result"
        outcome.failures[task.stage.name] = Failure(reason, log, of_user)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Keep Ctrl-C and SIGTERM what they are: Ray Train turns both into SystemExit, and never lets go of the first."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


def _task(planned: Planned, context: Context, outcome: Outcome) -> Task:
    stage = planned.stage
    inputs = {role: outcome.artifacts[source] for role, source in stage.inputs.items()}
    attempt = context.store.attempt(stage.kind, planned.digest, **_facts(planned, inputs, context))
    return Task(stage, inputs, attempt)


def _facts(planned: Planned, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    stage = planned.stage
    return {
        "stage": stage.name,
        "version": stage.version,
        "settings": dict(stage.settings),
        "inputs": {role: f"{artifact.kind}/{artifact.digest}" for role, artifact in inputs.items()},
        "group": stage.group,
        "run": {"inline": context.inline, "threads": context.threads, **context.run.model_dump(mode="json")},
        "versions": versions(),
        "machine": machine(),
    }


def title(tasks: Sequence[Task]) -> str:
    """How a batch is called on the screen: "pretrain: symmetric-0/seed-0, symmetric-0.1/seed-0"."""
    first = tasks[0].stage
    names = [task.stage.name.removeprefix(first.kind + "/") for task in tasks]
    if names == [first.kind]:
        return first.kind
    return f"{first.kind}: {', '.join(names) if len(names) <= 3 else f'{names[0]} to {names[-1]} ({len(names)})'}"


def resolve(function: str) -> StageFunction:
    """The function that "module:name" names; importing it may take seconds."""
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
