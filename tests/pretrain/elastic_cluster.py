"""An elastic run on a cluster of this machine, as a process of its own: python elastic_cluster.py PLAN STEPS

The cluster begins with room for one worker. After STEPS steps a node with room for another is added; STEPS steps after
the second worker has begun, the node is killed. Until then the workers wait, so nothing depends on the machine's speed.
"""

import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from nml_ray import ray_environment, session
from nml_ray.pretrain.plan import GroupPlan
from nml_ray.pretrain.resume import committed


def main() -> None:
    plan, steps = GroupPlan.from_data(json.loads(sys.argv[1])), int(sys.argv[2])
    directory = Path(tempfile.mkdtemp(prefix="nml-ray-", dir="/tmp"))  # socket paths may have 107 bytes
    (directory / "ray").mkdir()
    os.environ |= {**ray_environment.SETTINGS, "RAY_TMPDIR": str(directory), "RAY_AUTH_MODE": "disabled"}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        run(plan, steps)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run(plan: GroupPlan, steps: int) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from nml_ray.pretrain import trainer
    from nml_ray.pretrain.capacity import Workers

    trainer.RESIZE_SECONDS = 5
    trainer._worker = held(steps)
    small = {"num_cpus": plan.cpus, "object_store_memory": 80 * 2**20}
    head = {**small, "include_dashboard": False, "dashboard_port": free_port()}
    with session.patience():
        cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False)
    attempt = Path(plan.arms[0].attempt)
    pool = ThreadPoolExecutor(1)
    training = pool.submit(trainer.train_on_ray, plan, Workers(1, 2), str(attempt.parent / "ray"))
    try:
        follow(training, plan, cluster, small, steps)
        (outcome,) = training.result()
        (attempt / "outcome.json").write_text(json.dumps(asdict(outcome)))
    finally:
        ray.shutdown()
        cluster.shutdown()


def held(steps: int):
    """A worker that tells every step, and after `steps` of its own takes another only where a checkpoint is asked for:
    its group is to be ended from outside. The last group, of one worker that goes on from others, is free.
    """

    def work(config):
        from nml_ray.pretrain import telemetry, trainer
        from nml_ray.pretrain.notice import is_asked

        telemetry.EVERY_SECONDS = 0
        own_progress, size = trainer.progress_of, trainer.ray.train.get_context().get_world_size()

        def progress_of(plan):
            report, attempt, batch = own_progress(plan), Path(plan.arms[0].attempt), plan.settings["batch"]
            told: list[float] = []

            def hold(done: float, total: float, unit: str) -> None:
                report(done, total, unit)
                told.append(done / batch)
                last = size == 1 and told[0] > 1
                while len(told) >= steps and not last:
                    time.sleep(0.2)  # a few steps until the checkpoint is there, not many
                    if is_asked(attempt):
                        return

            return hold

        trainer.progress_of = progress_of
        return trainer._worker(config)

    return work


def free_port() -> int:
    """A port that nobody listens at: other tests have dashboards too."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def follow(training: Future, plan: GroupPlan, cluster, small: dict, steps: int) -> None:
    """Add a node, then kill it; in the main thread, as Ray's nodes set signal handlers."""
    attempt = Path(plan.arms[0].attempt)

    def step() -> int:
        """Steps done, by the last line of telemetry that is whole."""
        file = attempt / "telemetry.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return max((1 + json.loads(line)["step"] for line in lines[-2:] if line.endswith("\n")), default=0)

    def say(what: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {what}, step {step()}", flush=True)

    def wait(until: Callable[[], object]) -> None:
        while not until():
            if training.done():
                raise AssertionError(f"the training has ended at step {step()}: {training.result()}")
            time.sleep(0.2)

    def two() -> int:
        """The step from which two workers go on, once they have made a checkpoint."""
        for checkpoint in reversed(committed(attempt)):
            try:
                last = json.loads((checkpoint / "state.json").read_text())["lineage"][-1]
            except FileNotFoundError:  # a newer one has taken its place
                continue
            return last["from_step"] if last["workers"] == 2 else 0
        return 0

    say("begun")
    wait(lambda: step() >= steps)
    say("one worker waits")
    with session.patience():
        node = cluster.add_node(**small)
    say("a node is there")
    wait(two)
    from_step = two()
    say(f"two workers have gone on from {from_step} and have a checkpoint")
    wait(lambda: step() >= from_step + steps)
    cluster.remove_node(node, allow_graceful=False)
    say("the node is killed")
    wait(lambda: step() != from_step + steps)
    say("one worker goes on")
    training.result()
    say("done")


if __name__ == "__main__":
    main()
