"""An extraction on two nodes of this machine, one of which is killed: python two_nodes.py PLAN

PLAN is a JSON file of an `ExtractionPlan`. Each node has room for one actor.
"""

import json
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from nml_ray import ray_environment, session
from nml_ray.features.plan import EncoderPlan, ExtractionPlan, ShardDone, all_items


def main() -> None:
    data = json.loads(Path(sys.argv[1]).read_text())
    data |= {"encoders": tuple(EncoderPlan(**one) for one in data["encoders"]), "transforms": tuple(data["transforms"])}
    directory = Path(tempfile.mkdtemp(prefix="nml-ray-", dir="/tmp"))  # socket paths may have 107 bytes
    (directory / "ray").mkdir()
    os.environ |= {**ray_environment.SETTINGS, "RAY_TMPDIR": str(directory), "RAY_AUTH_MODE": "disabled"}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        run(ExtractionPlan(**data))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run(plan: ExtractionPlan) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from nml_ray.features.ray_data import extract_on_ray

    small = {"num_cpus": plan.cpus, "object_store_memory": 80 * 2**20}
    with session.patience():
        cluster = Cluster(
            initialize_head=True,
            head_node_args={**small, "include_dashboard": False, "dashboard_port": free_port()},
        )
        second = cluster.add_node(**small)
    ray.init(address=cluster.address, log_to_driver=False)
    heard: list[str] = []

    def kill_once(shard: ShardDone) -> None:
        heard.append(f"{shard.split}/{shard.shard}")
        if len(heard) == 1:
            cluster.remove_node(second, allow_graceful=False)

    try:
        done = extract_on_ray(plan, all_items(plan), (2, 2), kill_once)
        print(json.dumps(sorted(f"{shard.split}/{shard.shard}" for shard in done)))
    finally:
        ray.shutdown()
        cluster.shutdown()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    main()
