"""The Ray Train shell: one `TorchTrainer` run trains one group of arms.

The worker's own errors come back as values, so that Ray retries only what a retry can mend: a process that died.
"""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import LoggingConfig

from nml_ray.config.errors import UserError
from nml_ray.pretrain.plan import ArmOutcome, GroupPlan, attempt_name, progress_of
from nml_ray.storage.artifact import Attempt

RETRIES = 3  # worker deaths that a run survives
STARTS = 2  # failed starts of the worker group; Ray's own default tries for ever


def train_on_ray(plan: GroupPlan, workers: int, storage: str) -> list[ArmOutcome]:
    """Train a group on `workers` Ray workers that reserve `plan.cpus` each, and a GPU for device cuda.

    `storage` is a directory for Ray's own files.

    Raises:
        UserError: a mistake of the user's that a worker found, or fewer GPUs than workers.
        ray.train.TrainingFailedError: workers died more often than is retried.
    """
    on_gpu = plan.device == "cuda"
    if on_gpu and (gpus := ray.cluster_resources().get("GPU", 0)) < workers:
        raise UserError(f"the cluster has {gpus:g} GPUs", where="run.device: cuda", expected=f"one a worker: {workers}")
    trainer = TorchTrainer(
        _worker,
        train_loop_config=asdict(plan),
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=on_gpu,
            resources_per_worker={"CPU": plan.cpus, **({"GPU": 1} if on_gpu else {})},
        ),
        run_config=RunConfig(
            name=attempt_name(plan),
            storage_path=storage,
            failure_config=FailureConfig(max_failures=RETRIES, controller_failure_limit=STARTS),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    returned: Any = trainer.fit().return_value
    shutil.rmtree(Path(storage) / attempt_name(plan), ignore_errors=True)  # Ray's own; ours lies in the attempts
    if "user_error" in returned:
        raise UserError(returned["user_error"])
    return [ArmOutcome(**outcome) for outcome in returned["outcomes"]]


def _worker(config: dict[str, Any]) -> dict[str, Any]:
    from nml_ray.pretrain.loop import train_group
    from nml_ray.pretrain.world import World

    plan = GroupPlan.from_data(config)
    if plan.device == "cuda":
        plan = replace(plan, device=str(ray.train.torch.get_device()))
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    first = Attempt(Path(plan.arms[0].attempt))
    if first.failure:  # what a worker of this attempt left before Ray started the group again
        return {"user_error": first.failure}
    try:
        return {"outcomes": [asdict(outcome) for outcome in train_group(plan, world, progress_of(plan))]}
    except UserError as error:
        if world.size == 1:
            return {"user_error": str(error)}
        first.fail(str(error))
        raise  # the other workers wait for this one in a collective; only its death frees them
