"""An elastic run on a cluster of this machine, as a process of its own: python elastic_cluster.py PLAN STEPS

The cluster begins with room for one worker. After STEPS steps a node with room for another is added; STEPS steps after
the second worker has begun, the node is killed.
"""

import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path

from nml_ray import session
from nml_ray.pretrain.plan import GroupPlan
from nml_ray.pretrain.resume import committed
from nml_ray.storage.artifact import read_progress


def main() -> None:
    plan, steps = GroupPlan.from_data(json.loads(sys.argv[1])), int(sys.argv[2])
    directory = Path(tempfile.mkdtemp(prefix="nml-ray-", dir="/tmp"))  # socket paths may have 107 bytes
    (directory / "ray").mkdir()
    os.environ |= {**session.SETTINGS, "RAY_TMPDIR": str(directory), "RAY_AUTH_MODE": "disabled"}
    os.environ["RAY_agent_register_timeout_ms"] = "180000"  # as `patient`
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        run(plan, steps)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run(plan: GroupPlan, steps: int) -> None:
    import ray
    from ray._private import services
    from ray.cluster_utils import Cluster

    from nml_ray.pretrain import trainer
    from nml_ray.pretrain.capacity import Workers

    trainer.RESIZE_SECONDS = 5
    services.get_node = patient(services.get_node)
    small = {"num_cpus": plan.cpus, "object_store_memory": 80 * 2**20}
    head = {**small, "include_dashboard": False, "dashboard_port": free_port()}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False)
    watch = threading.Thread(target=follow, args=(plan, cluster, small, steps), daemon=True)
    watch.start()
    try:
        (outcome,) = trainer.train_on_ray(plan, Workers(1, 2), str(Path(plan.arms[0].attempt).parent / "ray"))
        (Path(plan.arms[0].attempt) / "outcome.json").write_text(json.dumps(asdict(outcome)))
    finally:
        ray.shutdown()
        cluster.shutdown()


def patient(get_node):
    """Ray gives a node 30 seconds to come up, which a machine that does other things may not keep."""

    def get(*arguments):
        for _ in range(1800):
            try:
                return get_node(*arguments)
            except RuntimeError:
                time.sleep(0.1)
        return get_node(*arguments)

    return get


def free_port() -> int:
    """A port that nobody listens at: other tests have dashboards too."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def follow(plan: GroupPlan, cluster, small: dict, steps: int) -> None:
    """Add a node, then kill it."""
    attempt, batch = Path(plan.arms[0].attempt), plan.settings["batch"]

    def step() -> float:
        said = read_progress(attempt)
        return said.done / batch if said else 0

    def wait(what: str, until) -> None:
        while not until():
            time.sleep(0.1)
        print(f"{time.strftime('%H:%M:%S')} {what} at step {step():.0f}", flush=True)

    def two() -> int:
        """The step from which two workers go on, once they have made a checkpoint."""
        for checkpoint in reversed(committed(attempt)):
            try:
                last = json.loads((checkpoint / "state.json").read_text())["lineage"][-1]
            except FileNotFoundError:  # a newer one has taken its place
                continue
            return last["from_step"] if last["workers"] == 2 else 0
        return 0

    wait("a node is added", lambda: step() >= steps)
    node = cluster.add_node(**small)
    wait("two workers have a checkpoint", two)
    from_step = two()
    wait("the node is killed", lambda: step() >= from_step + steps)
    cluster.remove_node(node, allow_graceful=False)


if __name__ == "__main__":
    main()
