"""The order of stages, what one of them needs, and which are handed to one call. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from nml_ray.config.errors import UserError, nearest_name
from nml_ray.study.stage import Stage


def ordered(stages: Iterable[Stage]) -> dict[str, Stage]:
    """Stages by name, inputs before those that read them, otherwise in the order given.

    Raises:
        ValueError: two stages of one name, an input that no stage makes, a cycle.
    """
    given: dict[str, Stage] = {}
    for stage in stages:
        if stage.name in given:
            raise ValueError(f"two stages are called '{stage.name}'")
        given[stage.name] = stage
    result: dict[str, Stage] = {}
    for stage in given.values():
        _visit(stage, given, result, ())
    return result


def _visit(stage: Stage, given: Mapping[str, Stage], result: dict[str, Stage], above: tuple[str, ...]) -> None:
    if stage.name in result:
        return
    if stage.name in above:
        raise ValueError(f"stages need each other: {' -> '.join((*above, stage.name))}")
    for source in stage.inputs.values():
        if source not in given:
            raise ValueError(f"stage '{stage.name}' needs '{source}', which no stage makes")
        _visit(given[source], given, result, (*above, stage.name))
    result[stage.name] = stage


def until(stages: Mapping[str, Stage], target: str) -> dict[str, Stage]:
    """Only the stages called `target`, or of that kind, and all that they need.

    Raises:
        UserError: there is no such stage or kind.
    """
    wanted = {name for name, stage in stages.items() if target in (name, stage.kind)}
    if not wanted:
        kinds = list(dict.fromkeys(stage.kind for stage in stages.values()))
        nearest = nearest_name(target, [*kinds, *stages])
        raise UserError(
            f"no stage '{target}' in this job", where="--until", expected="one of " + ", ".join(kinds), nearest=nearest
        )
    for name, stage in reversed(list(stages.items())):
        if name in wanted:
            wanted.update(stage.inputs.values())
    return {name: stage for name, stage in stages.items() if name in wanted}


def batches(stages: Mapping[str, Stage]) -> list[list[str]]:
    """The names that go to one call each, in an order in which inputs come first.

    `stages` is in order (see `ordered`). Stages of one kind and group share a call; others have one of their own.

    Raises:
        ValueError: a group that needs itself by way of another stage.
    """
    batch_of = {name: f"{stage.kind}/{stage.group}" if stage.group else name for name, stage in stages.items()}
    members: dict[str, list[Stage]] = {}
    for name, stage in stages.items():
        members.setdefault(batch_of[name], []).append(stage)
    joined = ordered(_joined(batch, group, batch_of) for batch, group in members.items())
    return [[stage.name for stage in members[batch]] for batch in joined]


def _joined(batch: str, group: Sequence[Stage], batch_of: Mapping[str, str]) -> Stage:
    sources = {batch_of[source] for stage in group for source in stage.inputs.values() if source in batch_of}
    return Stage(batch, group[0].kind, 0, {}, "", inputs={source: source for source in sorted(sources)})
