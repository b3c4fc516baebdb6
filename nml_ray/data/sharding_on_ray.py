"""The Ray shell of sharding: each tar is a task of a cluster, whose nodes see the images and the directory of the tars.

A task returns counts and keys; images never pass through Ray. A task whose process or node dies is given to another:
the tar it was writing had not appeared yet.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from nml_ray.config.errors import UserError
from nml_ray.data.processes import AHEAD

Piece = TypeVar("Piece")
Result = TypeVar("Result")

RETRIES = 3  # deaths of a task's process or node
GRACE = 30.0  # seconds that cancelled tasks have to remove what they were writing


def spread_on_ray(work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Iterator[Result]:
    """`processes.spread` over the Ray that this process is connected to, one CPU a piece.

    Pieces are taken from the iterable only as CPUs become free, also those of nodes that join later. After an error no
    further piece begins.

    Args:
        work: a function of a module of this package.
        pieces: can be pickled, as are the results.

    Raises:
        UserError: one of `work`'s; a piece whose process died again and again.
    """
    todo = iter(pieces)
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_told)
    pending: set[Any] = set()
    try:
        while True:
            wanted = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 0))) - len(pending)
            pending |= {task.remote(work, piece) for piece in islice(todo, max(0, wanted))}
            if not pending:
                return
            done, _ = ray.wait(list(pending), num_returns=1)
            pending -= set(done)
            yield _result(done[0])
    finally:
        for reference in pending:
            ray.cancel(reference)
        if pending:
            ray.wait(list(pending), num_returns=len(pending), timeout=GRACE)


def _told(work: Callable[[Any], Any], piece: Any) -> tuple[str, Any]:
    """A mistake of the user's comes back as text: Ray would retry it, and print where it happened."""
    try:
        return "", work(piece)
    except UserError as error:
        return f"on node {ray.util.get_node_ip_address()}: {error}", None


def _result(reference: Any) -> Any:
    try:
        error, result = ray.get(reference)
    except RayTaskError as failure:
        if isinstance(failure.cause, ImportError):
            raise UserError(
                f"a node lacks a package ({failure.cause})", where="--ray", expected="nml_ray's packages on every node"
            ) from None
        raise
    except RayError as failure:
        reason = " ".join(str(failure).split())[:200]
        raise UserError(
            f"the process of a task died {RETRIES + 1} times ({reason}); what was finished is kept",
            where="--ray",
            expected="nodes that stay, with enough memory",
        ) from None
    if error:
        raise UserError(error)
    return result
