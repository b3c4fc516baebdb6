"""Independent pieces of work over several local processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait as wait_for
from typing import TypeVar

from nml_ray.config.errors import UserError

Piece = TypeVar("Piece")
Result = TypeVar("Result")

AHEAD = 2  # pieces sent ahead for each process


def spread(work: Callable[[Piece], Result], pieces: Iterable[Piece], processes: int) -> Iterator[Result]:
    """Results as they are done; in this process, in order, where `processes` is 1.

    Pieces are taken from the iterable only as processes become free. After an error no further piece begins.

    Args:
        work: a function of a module.
        pieces: can be pickled, as are the results.
        processes: how many.

    Raises:
        UserError: a process died.
    """
    if processes == 1:
        yield from map(work, pieces)
        return
    todo = iter(pieces)
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin)
    pending: set[Future[Result]] = set()
    try:
        while True:
            pending |= {pool.submit(work, piece) for piece in islice(todo, AHEAD * processes - len(pending))}
            if not pending:
                return
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process died (killed, or out of memory); what was finished is kept",
            where="--workers",
            expected="enough memory for each, or fewer of them",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """A process leaves Ctrl-C to its parent, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def follow() -> None:
        wait_for([sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
