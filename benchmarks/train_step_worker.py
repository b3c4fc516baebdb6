"""One process under torchrun: our training loop, in turns with another run (see train_step.py, which starts it)."""

import json
import sys
from pathlib import Path

import torch.distributed

from benchmarks.turns import Blocks, taking_turns
from nml_ray.pretrain.loop import train_group
from nml_ray.pretrain.plan import GroupPlan, progress_of
from nml_ray.pretrain.world import World


def main() -> None:
    """Train the plan of the file given."""
    told = json.loads(Path(sys.argv[1]).read_text())
    plan, blocks = (
        GroupPlan.from_data(told["plan"]),
        Blocks(**{**told["blocks"], "arms": tuple(told["blocks"]["arms"])}),
    )
    torch.distributed.init_process_group("gloo")
    world = World(torch.distributed.get_rank(), torch.distributed.get_world_size())
    with taking_turns(blocks, "torchrun"):
        outcomes = train_group(plan, world, progress_of(plan))
    torch.distributed.destroy_process_group()
    if any(outcome.error for outcome in outcomes):
        raise SystemExit(str(outcomes))


if __name__ == "__main__":
    main()
