"""A stage is data: name, dependencies, what is hashed, and the name of the function that makes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nml_ray.storage.digest import digest_of

DIGEST_LENGTH = 16


@dataclass(frozen=True)
class Resources:
    """What a call of a stage's function takes of the cluster while it runs; never hashed.

    Attributes:
        cpus: of each process, on one node.
        gpus: of each process, on the same node.
        processes: side by side; 0 of a stage that the driver computes by itself.
        together: stages of a batch that have these processes in common, the next have as many again; 0 for all.
    """

    cpus: float = 1
    gpus: float = 0
    processes: int = 0
    together: int = 0


@dataclass(frozen=True)
class Stage:
    """One artifact to be made.

    `settings` is plain JSON data and holds all that defines the result beyond the inputs; how a stage runs (workers,
    devices, paths, groups) stays out of it. `inputs` maps a role ("shards", "arm") to the name of the stage that
    makes it. `function` is "module:name", resolved only when the stage runs, so that a plan needs neither ray nor
    torch. Stages of one kind and the same `group` may be handed to one call of their function: arms that share a
    loader, encoders that share an extraction, heads that share a sweep. The group is a schedule, nothing more.
    """

    name: str
    kind: str
    version: int
    settings: Mapping[str, Any]
    function: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    resources: Resources = Resources()


def digests(stages: Mapping[str, Stage]) -> dict[str, str]:
    """The digest of every stage, over kind, version, settings and the digests of its inputs.

    `stages` must be in an order in which inputs come before those that read them (see `graph.ordered`).
    """
    known: dict[str, str] = {}
    for name, stage in stages.items():
        known[name] = digest_of(
            {
                "kind": stage.kind,
                "version": stage.version,
                "settings": dict(stage.settings),
                "inputs": {role: known[source] for role, source in stage.inputs.items()},
            }
        )[:DIGEST_LENGTH]
    return known
