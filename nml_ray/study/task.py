"""What a stage function is given: its stage, the artifacts it reads, and the attempt it writes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nml_ray.storage.artifact import Artifact, Attempt, Store
from nml_ray.study.schedule import Node
from nml_ray.study.stage import Stage


@dataclass(frozen=True)
class Task:
    """One stage to be made. `inputs` is keyed by role, as in the stage."""

    stage: Stage
    inputs: Mapping[str, Artifact]
    attempt: Attempt


@dataclass(frozen=True)
class Context:
    """How a study runs; nothing here may change a result.

    `inline` forbids Ray; otherwise `start_ray()` (idempotent) connects or starts it, `stop_ray()` lets it go, and
    `nodes()` says what each node of it has in all, after starting it. `run` is the job's `run` section (workers,
    arms_per_worker, decode threads). `store` is for stages that keep artifacts of their own trials.
    """

    store: Store
    inline: bool
    threads: int
    run: Any
    start_ray: Callable[[], None]
    stop_ray: Callable[[], None] = lambda: None
    nodes: Callable[[], Sequence[Node]] = lambda: ()


StageFunction = Callable[[Sequence[Task], Context], None]
