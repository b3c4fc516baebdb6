"""How long a checkpoint holds up the training loop: copied and committed behind it, against written at once.

    .venv/bin/python benchmarks/checkpoint_stall.py    about two minutes; writes results/checkpoint_stall.json and .md

A ResNet-50 under AdamW (0.3 GB of weights and moments), one arm, one rank, on the local disk. Both arms use the same
code: `Snapshot.of`, then `Committer.submit` (once the commit before, if still under way, has ended), or the
feeding log's end, the writing and the commit one after another. Between two checkpoints lie two seconds, as a step or a
few would take; the seconds given are those in which the loop could not go on.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch

from benchmarks.measure import Goal, interleaved, parsed, parser, ratio, save, spread, table
from nml_ray.models.config import EncoderSettings
from nml_ray.pretrain.arm import Arm
from nml_ray.pretrain.checkpoint import Memory, Snapshot
from nml_ray.pretrain.committer import Committer
from nml_ray.pretrain.feeding import Cut
from nml_ray.pretrain.objective import seeded_objective
from nml_ray.pretrain.recipe_config import OptimiserSettings

NAME = "checkpoint_stall"
BETWEEN = 2.0  # seconds
KEPT = 2  # checkpoints


def built(encoder: str, size: int) -> Arm:
    """An arm that has taken no step; its moments are there."""
    model = seeded_objective(EncoderSettings(name=encoder, channels=3, size=size), 1000, 0.0, 0)
    labels = np.zeros(1, np.int32)
    return Arm.build("arm", model, labels, labels, OptimiserSettings())


def fed(attempt: Path, step: int) -> Cut:
    """The feeding log of one rank, ended: 65,536 records."""
    aside = attempt / "fed" / f".aside-0-{step}"
    aside.parent.mkdir(parents=True, exist_ok=True)
    aside.write_bytes(bytes(36 << 16))
    return Cut(0, step, (attempt,), (aside,))


class Run:
    """Checkpoints of one arm, step after step."""

    def __init__(self, arm: Arm, directory: Path) -> None:
        self.arm, self.attempt, self.step = arm, directory, 0
        self.memory: Memory = {}

    def behind(self, committer: Committer, pause: float) -> float:
        """Seconds of the loop for a checkpoint that is committed behind it."""
        time.sleep(pause)
        self.step += 1
        cut, began = fed(self.attempt, self.step), time.perf_counter()
        committer.wait()
        committer.submit(cut, [Snapshot.of(self.arm, self.attempt, self.step, {}, self.memory)])
        return time.perf_counter() - began

    def at_once(self, pause: float) -> float:
        """Seconds of the loop for a checkpoint that it writes itself."""
        time.sleep(pause)
        self.step += 1
        cut, began = fed(self.attempt, self.step), time.perf_counter()
        snapshot = Snapshot.of(self.arm, self.attempt, self.step, {}, self.memory)
        cut.finish()
        snapshot.write()
        snapshot.commit(KEPT)
        return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    options = parsed(parser(__doc__, rounds=(15, 2)), arguments)
    torch.set_num_threads(1)
    encoder, pause = ("small_resnet", 0.0) if options.quick else ("torchvision:resnet50", BETWEEN)
    arm, directory = built(encoder, 32), Path(mkdtemp(dir=options.out.parent if options.out.parent.is_dir() else None))
    try:
        with Committer(ranks=1) as committer:
            arms: dict[str, Callable[[], float]] = {
                "behind the loop": partial(Run(arm, directory / "behind").behind, committer, pause),
                "at once": partial(Run(arm, directory / "at-once").at_once, pause),
            }
            seconds = interleaved(arms, options.rounds + 1)
    finally:
        shutil.rmtree(directory)
    seconds = {name: values[1:] for name, values in seconds.items()}  # the first touches fresh memory
    times = ratio(seconds["at once"], seconds["behind the loop"])
    rows = [[name, spread([1000 * value for value in values])] for name, values in seconds.items()]
    state = sum(
        t.numel() * t.element_size() for t in [*arm.model.state_dict().values(), *arm.optimiser.state().values()]
    )
    goals = [Goal("stall at once over stall behind the loop", times, 5)]
    head = [f"checkpoint of {state / 1e6:.0f} MB", "stall of the loop, ms: median (lowest..highest)"]
    save(NAME, options.out, {"seconds": seconds, "bytes": state}, [table(head, rows)], goals)


if __name__ == "__main__":
    main()
