"""The Ray Train shell: one `TorchTrainer` run trains one group of arms.

The worker's own errors come back as values, so that Ray retries only what a retry can mend: a process that died.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.autoscaler.sdk import request_resources
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.callback import RayTrainCallback
from ray.train.v2.api.config import LoggingConfig

from nml_ray.pretrain.capacity import Need, Node, Workers, refuse_too_few, room, trials_at_once
from nml_ray.pretrain.cleaner import mended
from nml_ray.pretrain.failure import outcomes_of, train_or_tell
from nml_ray.pretrain.plan import ArmOutcome, GroupPlan, attempt_name, progress_of
from nml_ray.pretrain.rendezvous import Rendezvous

RETRIES = 3  # worker deaths that a run survives; an elastic one, in a row without a checkpoint between
STARTS = 2  # failed starts of the worker group, each after a minute; Ray's own default tries for ever
RESIZE_SECONDS = 60.0  # between two looks whether there is room for more workers; a resize costs about half a minute
PATIENCE = 300.0  # seconds that an elastic run may be without workers, where no nodes come in place of lost ones
WAIT_POLL = 5.0  # seconds between two looks at a cluster that is to grow


class Trainer(TorchTrainer):
    """As `TorchTrainer`, but for what a stopped run leaves on a cluster that goes on (see `cleaner`)."""

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        return mended(super()._create_default_callbacks())


def need_of(plan: GroupPlan) -> Need:
    """What a worker of the plan reserves."""
    return Need(plan.cpus, 1 if plan.device == "cuda" else 0)


def alive_nodes() -> list[Node]:
    """What each node of the cluster has in all."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def refuse_or_await(need: Need, workers: Workers, minutes: float) -> Sequence[Node]:
    """The cluster's nodes, once they have room for the least workers.

    Raises:
        UserError: they have none after `minutes`.
    """
    until = time.monotonic() + 60 * minutes
    while room(alive_nodes(), need) < workers.least and time.monotonic() < until:
        request_resources(bundles=[need.resources()] * workers.least)  # Ray Train asks for its own once it runs
        time.sleep(WAIT_POLL)
    nodes = alive_nodes()
    if minutes and room(nodes, need) < workers.least:
        request_resources(bundles=[])
    refuse_too_few(nodes, need, workers)
    return nodes


def runs_at_once(plan: GroupPlan, workers: Workers, wait_minutes: float = 0) -> int:
    """How many runs like the plan's the cluster has room for, side by side.

    Raises:
        UserError: none, after `wait_minutes`.
    """
    need = need_of(plan)
    return trials_at_once(refuse_or_await(need, workers, wait_minutes), need, workers)


def train_on_ray(plan: GroupPlan, workers: Workers, storage: str, wait_minutes: float = 0) -> list[ArmOutcome]:
    """Train a group on Ray workers that reserve `plan.cpus` each, and a GPU for device cuda.

    Args:
        plan: of the group.
        workers: how many; an elastic run takes what there is room for, and follows the cluster while it runs.
        storage: a directory for Ray's own files.
        wait_minutes: to wait for nodes to come.

    A worker's error that would come again is the outcome of every arm.

    Raises:
        UserError: a mistake of the user's that a worker found; too few CPUs or GPUs.
        ray.train.TrainingFailedError: workers died more often than is retried.
    """
    need = need_of(plan)
    refuse_or_await(need, workers, wait_minutes)
    on_gpu = plan.device == "cuda"
    elastic = workers.least < workers.most
    trainer = Trainer(
        _worker,
        train_loop_config={"plan": plan.carried()},
        torch_config=Rendezvous(backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(workers.least, workers.most) if elastic else workers.most,
            use_gpu=on_gpu,
            resources_per_worker=need.resources(),
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        ),
        run_config=RunConfig(
            name=attempt_name(plan),
            storage_path=storage,
            failure_config=_failures(elastic, wait_minutes),
            callbacks=[_steward(plan, wait_minutes)] if elastic else [],
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        returned: Any = trainer.fit().return_value
    except TrainingFailedError:
        refuse_too_few(alive_nodes(), need, workers)  # says what is missing where nodes were lost
        raise
    shutil.rmtree(Path(storage) / attempt_name(plan), ignore_errors=True)  # Ray's own; ours lies in the attempts
    return outcomes_of(returned, plan.arms)


def _failures(elastic: bool, wait_minutes: float) -> FailureConfig:
    """What Ray retries; in an elastic run the steward counts."""
    if elastic:
        return FailureConfig(max_failures=-1, controller_failure_limit=-1)
    return FailureConfig(max_failures=RETRIES, controller_failure_limit=STARTS + round(wait_minutes))


def _steward(plan: GroupPlan, wait_minutes: float) -> Any:
    from nml_ray.pretrain.steward import Steward

    attempts = [Path(arm.attempt) for arm in plan.arms]
    return Steward(attempts, RETRIES, max(PATIENCE, 60 * wait_minutes))


def _worker(config: dict[str, Any]) -> dict[str, Any]:
    from nml_ray.pretrain.loop import train_group
    from nml_ray.pretrain.notice import Notice
    from nml_ray.pretrain.world import World

    plan = GroupPlan.from_data(config["plan"])
    if plan.device == "cuda":
        plan = replace(plan, device=str(ray.train.torch.get_device()))
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    wanted = Notice(Path(plan.arms[0].attempt))
    return train_or_tell(lambda: train_group(plan, world, progress_of(plan), wanted), plan, world)
