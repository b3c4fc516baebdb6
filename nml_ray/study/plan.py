"""What a run would do: each stage with its digest, and whether its artifact exists. Pure but for the question asked."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nml_ray.storage.link import Link
from nml_ray.study.graph import ordered
from nml_ray.study.stage import Stage, digests

State = Literal["cached", "to do", "given"]


@dataclass(frozen=True)
class Given:
    """Data of the user's that stands in for a stage: links by name in the artifact's directory, the digest hashed."""

    links: Mapping[str, Path | Link]


@dataclass(frozen=True)
class Planned:
    """One stage of a plan."""

    stage: Stage
    digest: str
    state: State


def plan(stages: Iterable[Stage], exists: Callable[[str, str], bool], given: Iterable[str] = ()) -> dict[str, Planned]:
    """The plan, in an order in which inputs come first.

    Args:
        stages: All stages of the study.
        exists: Whether the artifact of a kind and digest is there.
        given: Names of the stages whose result the user has given.
    """
    order = ordered(stages)
    known, supplied = digests(order), set(given)
    return {
        name: Planned(stage, known[name], _state(name, stage, known[name], exists, supplied))
        for name, stage in order.items()
    }


def _state(name: str, stage: Stage, digest: str, exists: Callable[[str, str], bool], given: set[str]) -> State:
    if name in given:
        return "given"
    return "cached" if exists(stage.kind, digest) else "to do"
