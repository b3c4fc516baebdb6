"""One of two workers that meet over gloo, as a process of its own: failing_worker.py RENDEZVOUS RANK PLAN HOW

Rank 1 ends in its third step, by an error of Python's (HOW: error) or by SIGKILL (HOW: death). Printed is what the
worker returns, or the type of what it raises.
"""

import json
import os
import signal
import sys
from datetime import timedelta

import torch
import torch.distributed

from nml_ray.pretrain.failure import train_or_tell
from nml_ray.pretrain.plan import GroupPlan
from nml_ray.pretrain.world import World


def main() -> None:
    rendezvous, rank, how = sys.argv[1], int(sys.argv[2]), sys.argv[4]
    plan = GroupPlan.from_data(json.loads(sys.argv[3]))
    world = World(rank, 2)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )

    def train() -> list:
        for step in range(4):
            if rank == 1 and step == 2:
                if how == "death":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise ValueError("odd at step 2")
            world.sum_(torch.ones(3))
        return []

    try:
        told = train_or_tell(train, plan, world)
    except Exception as error:
        told = {"raised": type(error).__name__}
    print(json.dumps(told), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
