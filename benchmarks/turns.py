"""Two training runs take turns on one machine, block by block, and note what each block of steps costs.

Both run at once, each in processes of its own, and each waits before a block until the block before it, the other's or
its own, has ended on all ranks. What the processes do between is the training loop's own step.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

LOOK = 0.01  # seconds between two looks whether it is our turn


@dataclass(frozen=True)
class Blocks:
    """Who runs when: `count` blocks each, of `steps` steps, of which the first `skipped` are not measured.

    The two begin in turn: a b, b a, a b ...
    """

    directory: str
    arms: tuple[str, str]
    workers: int
    count: int
    steps: int
    skipped: int

    def before(self, arm: str, block: int) -> list[Path]:
        """The files that must be there before a block may begin: one of each rank."""
        pairs = [(self.arms if number % 2 == 0 else self.arms[::-1], number) for number in range(self.count)]
        order = [(name, number) for names, number in pairs for name in names]
        place = order.index((arm, block))
        if place == 0:
            return [self.file(name, -1, rank) for name in self.arms for rank in range(self.workers)]
        return [self.file(*order[place - 1], rank) for rank in range(self.workers)]

    def file(self, arm: str, block: int, rank: int) -> Path:
        """What a rank leaves at the end of a block; block -1 ends when it stands before its first step."""
        return Path(self.directory) / f"{arm}-{block}-{rank}.json"

    def cost(self, arm: str, block: int) -> "Cost":
        """CPU-seconds of all ranks and seconds of the slowest, for a step."""
        ranks = [json.loads(self.file(arm, block, rank).read_text()) for rank in range(self.workers)]
        steps = self.steps - self.skipped
        return Cost(max(rank["seconds"] for rank in ranks) / steps, sum(rank["cpu"] for rank in ranks) / steps)


@dataclass(frozen=True)
class Cost:
    """Of a step: seconds on the clock, and CPU-seconds of the training processes."""

    seconds: float
    cpu: float


class Turns:
    """One rank of one run."""

    def __init__(self, blocks: Blocks, arm: str, rank: int) -> None:
        self._blocks, self._arm, self._rank = blocks, arm, rank
        self._began = Cost(0, 0)

    def before(self, step: int) -> None:
        """Call it before each step, once its data are there."""
        block, place = divmod(step, self._blocks.steps)
        if place == 0 and block <= self._blocks.count:
            self._leave(block - 1)
            if block < self._blocks.count:
                self._wait(self._blocks.before(self._arm, block))
        if place == self._blocks.skipped:
            self._began = Cost(time.perf_counter(), time.process_time())

    def _leave(self, block: int) -> None:
        took = Cost(time.perf_counter() - self._began.seconds, time.process_time() - self._began.cpu)
        file = self._blocks.file(self._arm, block, self._rank)
        aside = file.with_suffix(".aside")
        aside.write_text(json.dumps({**asdict(took), "pid": os.getpid()}))
        aside.rename(file)

    def _wait(self, files: Sequence[Path]) -> None:
        while not all(file.exists() for file in files):
            time.sleep(LOOK)


@contextmanager
def taking_turns(blocks: Blocks, arm: str) -> Iterator[None]:
    """Inside, the training loop of this process takes turns."""
    from nml_ray.pretrain import loop

    give = loop._Run._give
    turns: list[Turns] = []

    def given(run: Any, step: int, microbatches: Any) -> None:
        if not turns:
            turns.append(Turns(blocks, arm, run.world.rank))
        turns[0].before(step)
        give(run, step, microbatches)

    with mock.patch.object(loop._Run, "_give", given):
        yield
