"""Which batches of stages may start now: those whose inputs have ended and for which the cluster has room. Pure.

Batches start in the order of the graph as far as their inputs allow. One that waits for room lets no later one take
what it waits for, so none waits for ever. One that the whole cluster has no room for runs with no other beside it: its
stage says what is missing, or waits for nodes. What the driver computes by itself takes the driver's one place.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor

from nml_ray.study.graph import batches
from nml_ray.study.stage import Resources, Stage

Node = Mapping[str, float]
"""What a node that is alive has in all, by Ray's names."""

DRIVER = 1  # batches that compute in the driver at once
_LEEWAY = 1e-9  # shares of a GPU are no exact binary fractions


@dataclass(frozen=True)
class Batch:
    """Stages that go to one call: their names, the batches (by number) that make their inputs, what they take."""

    names: tuple[str, ...]
    after: frozenset[int]
    resources: Resources


def batches_of(stages: Mapping[str, Stage]) -> list[Batch]:
    """The batches of stages (see `graph.batches`); each comes after those that it needs."""
    named = batches(stages)
    number = {name: place for place, names in enumerate(named) for name in names}
    found = []
    for place, names in enumerate(named):
        sources = {number[source] for name in names for source in stages[name].inputs.values() if source in number}
        taken = shared([stages[name].resources for name in names])
        found.append(Batch(tuple(names), frozenset(sources - {place}), taken))
    return found


def shared(resources: Sequence[Resources]) -> Resources:
    """What stages of one batch take, all of them alike: the processes once for as many stages as have them together."""
    first = resources[0]
    return replace(first, processes=first.processes * ceil(len(resources) / (first.together or len(resources))))


def fits(nodes: Sequence[Node], batches: Sequence[Resources]) -> bool:
    """Whether all processes of batches have room at once, wherever on the nodes Ray puts those of the others.

    On one node that is a sum. On several, each process of another size may spoil room for as many as it is large.
    """
    if len(nodes) == 1:
        cpus = sum(one.cpus * one.processes for one in batches)
        gpus = sum(one.gpus * one.processes for one in batches)
        return cpus <= nodes[0].get("CPU", 0) + _LEEWAY and gpus <= nodes[0].get("GPU", 0) + _LEEWAY
    return all(
        one.processes + sum(other.processes * _size(other, one) for other in [*batches[:n], *batches[n + 1 :]])
        <= sum(_room(node, one) for node in nodes)
        for n, one in enumerate(batches)
    )


def _room(node: Node, one: Resources) -> int:
    rooms = [node.get(name, 0) / wanted for name, wanted in (("CPU", one.cpus), ("GPU", one.gpus)) if wanted]
    return floor(min(rooms) + _LEEWAY)


def _size(process: Resources, unit: Resources) -> int:
    """Units that a process may keep from being placed."""
    pairs = [(process.cpus, unit.cpus), (process.gpus, unit.gpus)]
    return max(ceil(taken / wanted - _LEEWAY) for taken, wanted in pairs if wanted)


class Schedule:
    """What has ended, what runs, what may start; batches are known by their number."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches
        self.running: set[int] = set()
        self._left = len(batches)
        self._lacks = [len(batch.after) for batch in batches]
        self._followers: list[list[int]] = [[] for _ in batches]
        for number, batch in enumerate(batches):
            for source in batch.after:
                self._followers[source].append(number)
        self._ready = {kind: [n for n in range(len(batches)) if self._on(n) == kind] for kind in ("driver", "cluster")}
        for kind, numbers in self._ready.items():
            self._ready[kind] = [number for number in numbers if not self._lacks[number]]

    @property
    def finished(self) -> bool:
        """Whether every batch has ended."""
        return not self._left

    @property
    def wants_cluster(self) -> bool:
        """Whether a batch whose inputs are there waits for room on the cluster."""
        return bool(self._ready["cluster"])

    def start_next(self) -> int:
        """The first batch whose inputs are there, which from now on counts as running: one after the other."""
        kind = min((kind for kind, ready in self._ready.items() if ready), key=lambda kind: self._ready[kind][0])
        return self._begin(kind)

    def start(self, nodes: Sequence[Node]) -> list[int]:
        """The batches that may start beside those that run, which from now on count as running.

        Args:
            nodes: of the cluster, with all that they have; not looked at where nothing `wants_cluster`.
        """
        started = []
        while self._ready["driver"] and self._count("driver") < DRIVER:
            started.append(self._begin("driver"))
        while self._ready["cluster"]:
            taken = [self.batches[number].resources for number in self.running if self._on(number) == "cluster"]
            wanted = self.batches[self._ready["cluster"][0]].resources
            if taken and not fits(nodes, [*taken, wanted]):
                break
            started.append(self._begin("cluster"))
        return started

    def end(self, number: int) -> None:
        """A running batch has ended, well or not; what depends on it may start."""
        self.running.remove(number)
        self._left -= 1
        for follower in self._followers[number]:
            self._lacks[follower] -= 1
            if not self._lacks[follower]:
                heapq.heappush(self._ready[self._on(follower)], follower)

    def _on(self, number: int) -> str:
        return "cluster" if self.batches[number].resources.processes else "driver"

    def _count(self, kind: str) -> int:
        return sum(self._on(number) == kind for number in self.running)

    def _begin(self, kind: str) -> int:
        number = heapq.heappop(self._ready[kind])
        self.running.add(number)
        return number
