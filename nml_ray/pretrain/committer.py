"""Feeding logs and checkpoints on their way to storage, behind the training loop's back.

A checkpoint of step s exists only after every rank's log up to s does (CONTRACTS, Audit). Rank 0 learns that from the
storage itself, by the names of the other ranks' logs: no collective, and nothing for the loop to wait for.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from nml_ray.pretrain.checkpoint import Snapshot
from nml_ray.pretrain.feeding import Cut, part_path
from nml_ray.pretrain.publisher import Publisher

POLL_SECONDS = 0.02


class Committer:
    """One thread that commits one step after another; the loop waits only where the step before is still under way.

    As a context manager it ends with everything committed, or, after an error, with what can be. Of the checkpoints
    the newest `keep` stay: two or more for arms of a group, which may commit a step apart when a run is killed.
    `check` is called before anything gets its name; what it raises is the error of that commit.
    """

    def __init__(
        self,
        ranks: int,
        keep: int = 2,
        publisher: Publisher | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._ranks, self._keep, self._publisher, self._check = ranks, keep, publisher, check
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._under_way: Future[None] | None = None
        self._abandoned = threading.Event()

    def submit(self, cut: Cut, snapshots: Sequence[Snapshot]) -> None:
        """Commit a rank's log and, on rank 0, the checkpoints of its arms.

        Raises:
            OSError: the commit before this one failed.
        """
        self.wait()
        self._under_way = self._pool.submit(self._commit, cut, snapshots)

    def _commit(self, cut: Cut, snapshots: Sequence[Snapshot]) -> None:
        self._check()
        cut.finish()
        for snapshot in snapshots:
            snapshot.write()
        if snapshots and self._logs_are_there(cut):
            self._check()
            for snapshot in snapshots:
                snapshot.commit(self._keep)
        if self._publisher:
            self._publisher.submit(cut, snapshots)

    def _logs_are_there(self, cut: Cut) -> bool:
        """Wait for the other ranks' logs; False where the run ends before they come.

        On an object store the publisher does: nothing goes on from a checkpoint that is here alone.
        """
        if self._publisher:
            return True
        parts = [part_path(attempt, rank, cut.step) for attempt in cut.attempts for rank in range(self._ranks)]
        while missing := [part for part in parts if not part.exists()]:
            parts = missing
            if self._abandoned.wait(POLL_SECONDS):
                return False
        return True

    def wait(self) -> None:
        """Wait for the commit under way, if there is one; its snapshots' memory is free after it.

        Raises:
            OSError: it failed.
        """
        if self._under_way is not None:
            self._under_way.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._ranks > 1:
            self._abandoned.set()  # the others may be gone
        self._pool.shutdown()
        if self._publisher:
            self._publisher.close(abandoned=kind is not None and self._ranks > 1)
        if kind is None:
            self.wait()
            if self._publisher:
                self._publisher.check()
