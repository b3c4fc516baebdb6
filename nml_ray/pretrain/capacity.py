"""Whether workers fit a cluster, node by node: a worker lives on one node, whatever the others have."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nml_ray.config.errors import UserError

Node = Mapping[str, float]
"""What a node that is alive has in all, by Ray's names."""


@dataclass(frozen=True)
class Workers:
    """How many workers a run takes: `least` to go on at all, `most` where there is room."""

    least: int = 1
    most: int = 1

    def __str__(self) -> str:
        return str(self.most) if self.least == self.most else f"[{self.least}, {self.most}]"


@dataclass(frozen=True)
class Need:
    """What each worker reserves."""

    cpus: int
    gpus: int = 0

    def resources(self) -> dict[str, float]:
        """By Ray's names."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}

    def __str__(self) -> str:
        return _words(self.resources())


def room(nodes: Sequence[Node], need: Need) -> int:
    """Workers that the nodes hold at once, were nothing else running."""
    wanted = need.resources()
    return sum(int(min(node.get(name, 0) // amount for name, amount in wanted.items())) for node in nodes)


def trials_at_once(nodes: Sequence[Node], need: Need, workers: Workers) -> int:
    """Runs side by side that each have the most workers they can use; one where there is room for fewer.

    So no two runs vie for a node: one that begins is not made to shrink for the next.
    """
    return max(1, room(nodes, need) // workers.most)


def refuse_too_few(nodes: Sequence[Node], need: Need, workers: Workers) -> None:
    """Refuse a run that would stay pending.

    Raises:
        UserError: the nodes do not hold the least workers: how many they hold, and what each node has.
    """
    there = room(nodes, need)
    if there >= workers.least:
        return
    counts = Counter(_words({name: node.get(name, 0) for name in need.resources()}) for node in nodes)
    found = ", ".join(f"{count} with {words}" for words, count in counts.items()) or "none"
    raise UserError(
        f"the cluster has room for {there} of {workers.least} worker(s) that need {need} each, on one node"
        f" (nodes: {found})",
        where=f"run.workers: {workers}",
        expected="more nodes or larger ones (run.wait_minutes waits for them), or fewer run.workers, threads or"
        " run.decode_threads",
    )


def _words(resources: Node) -> str:
    return " and ".join(f"{amount:g} {name}{'s' * (amount != 1)}" for name, amount in resources.items())
