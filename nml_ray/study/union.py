"""The stages of many jobs as one graph: what several of them need is made once. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nml_ray.storage.digest import digest_of
from nml_ray.study.expand import Study
from nml_ray.study.graph import ordered
from nml_ray.study.plan import Given
from nml_ray.study.stage import Stage, digests


@dataclass(frozen=True)
class Union:
    """Stages of several jobs.

    Attributes:
        stages: in order, each artifact once.
        given: the user's data by stage.
        names: for each job its own stages' names and what they are called here.
    """

    stages: Mapping[str, Stage]
    given: Mapping[str, Given]
    names: Sequence[Mapping[str, str]]


def union(studies: Mapping[str, Study]) -> Union:
    """One graph of the stages of studies, which are called by their keys; without their reports, and with heads that
    are chosen on validation and leave test sets unread.

    A stage keeps the name that it has in the first study that needs it, with `@KEY` where another already has that
    name. Stages of a loader are grouped with those alone that differ in their noise, as in a job.
    """
    stages: dict[str, Stage] = {}
    given: dict[str, Given] = {}
    by_digest: dict[tuple[str, str], str] = {}
    names: list[dict[str, str]] = []
    for key, study in studies.items():
        own = ordered(_unread(stage) for stage in study.stages if stage.kind != "report")
        known, called = digests(own), dict[str, str]()
        for name, stage in own.items():
            artifact = (stage.kind, known[name])
            if artifact not in by_digest:
                by_digest[artifact] = new = name if name not in stages else f"{name}@{key}"
                inputs = {role: called[source] for role, source in stage.inputs.items()}
                stages[new] = replace(stage, name=new, inputs=inputs, group=_group(stage, inputs))
                if name in study.given:
                    given[new] = study.given[name]
            called[name] = by_digest[artifact]
        names.append(called)
    return Union(stages, given, names)


def _unread(stage: Stage) -> Stage:
    return replace(stage, settings={**stage.settings, "test": False}) if stage.kind == "heads" else stage


def _group(stage: Stage, inputs: Mapping[str, str]) -> str:
    """Arms that share a loader have one recipe and the same images; arms of a sweep of their own each have a worker."""
    if stage.kind != "pretrain" or stage.group == "sweep":
        return stage.group
    recipe = {name: value for name, value in stage.settings.items() if name != "noise"}
    images = {role: source for role, source in inputs.items() if role != "labels"}
    return f"{stage.group}/{digest_of([recipe, images])[:8]}"
