"""Ray inside an allocation of Slurm; the batch script calls it.

    python -m nml_ray.cluster.slurm_ray start OPTION...                      `ray start`, with patience
    python -m nml_ray.cluster.slurm_ray wait ADDRESS SECONDS PID NODE...     until Ray has come up on these nodes

ADDRESS is the file in which the head leaves its HOST:PORT. `wait` gives up when process PID ends; the exit code is 0
when all nodes are there, and 1 otherwise, with a line that names the missing ones.
"""

import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from nml_ray import session
from nml_ray.storage.pulse import process_started


def start(options: Sequence[str]) -> None:
    """Start Ray on this node, and stay until it ends."""
    from ray.scripts.scripts import cli

    with session.patience():
        cli(["start", *options], prog_name="ray")


def wait(address: Path, seconds: float, pid: int, nodes: Sequence[str]) -> str:
    """Wait until Ray has come up on all nodes; what is the matter, or "" when it has."""
    began, until = process_started(pid), time.monotonic() + seconds
    missing: Sequence[str] = nodes
    while missing:
        if time.monotonic() > until:
            return f"after {seconds / 60:g} minutes (start_minutes) Ray had not come up on {', '.join(missing)}"
        if began < 0 or process_started(pid) != began:
            return f"Ray has ended before it had come up on {', '.join(missing)}"
        time.sleep(0.5)
        if text := address.read_text().strip() if address.exists() else "":
            there = names(text)
            missing = [node for node in nodes if node not in there]
    return ""


def names(address: str) -> set[str]:
    """The names of the nodes of a cluster that are alive; none where it does not answer."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import RayError

    try:
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=5).close()  # Ray itself would try for most of a minute
        nodes = GcsClient(address=address).get_all_node_info(timeout=5)
    except (RayError, RuntimeError, OSError):
        return set()
    alive = 0  # GcsNodeInfo.ALIVE
    return {node.node_name for node in nodes.values() if node.state == alive}


def main(arguments: Sequence[str]) -> int:
    """See the module's text."""
    match arguments:
        case ["start", *options]:
            start(options)
            return 0
        case ["wait", address, seconds, pid, *nodes]:
            if trouble := wait(Path(address), float(seconds), int(pid), nodes):
                print(f"nml-ray: {trouble}", file=sys.stderr)
            return 1 if trouble else 0
        case _:
            print(__doc__, file=sys.stderr)
            return os.EX_USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
