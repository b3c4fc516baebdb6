"""Names the nodes that a cluster loses or gains while a run is connected to it, in one line for the run's display."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

LOOK = 3.0  # seconds between two looks
WAIT = 5.0  # seconds that `stop` waits for the thread


class NodeWatch:
    """A thread that looks at the cluster's nodes and tells of changes; the connection must outlive it: `stop` it first.

    Args:
        say: called with a line for the user, in the thread.
        every: seconds between two looks.
    """

    def __init__(self, say: Callable[[str], None], every: float = LOOK) -> None:
        self._say, self._every = say, every
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="nodes", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join(WAIT)  # a cluster that does not answer holds the thread for a while

    def _watch(self) -> None:
        import ray

        known = {node["NodeID"]: node for node in ray.nodes()}
        while not self._stopped.wait(self._every):
            now = {node["NodeID"]: node for node in ray.nodes()}
            for line in changes(known, now):
                self._say(line)
            known = now


def changes(before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What has happened between two looks, a line each: nodes by Ray's id and in Ray's words."""
    lines = []
    for name, node in now.items():
        was_alive = name in before and before[name]["Alive"]
        if was_alive and not node["Alive"]:
            left = sum(other["Alive"] for other in now.values())
            rest = f"the {left} left take up what ran there, as far as they have room"
            lines.append(f"lost the node {_words(node)}: {rest}")
        elif node["Alive"] and not was_alive:
            lines.append(f"the node {_words(node)} has come")
    return lines


def _words(node: Mapping[str, Any]) -> str:
    address, host = str(node["NodeManagerAddress"]), str(node["NodeManagerHostname"])
    return address if host in ("", address) else f"{address} ({host})"
