"""A training process begins its first step without modules that a small supervised run has no use for."""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

# Each would take from a few tenths of a second to several seconds, in every process of every run.
NEEDLESS = {
    "torch": {"torch._dynamo", "torch._inductor"},
    "models": {"timm", "torchvision", "open_clip", "transformers", "huggingface_hub"},
    "reports": {"matplotlib", "jinja2", "rich", "sklearn", "scipy", "sympy"},
    "elsewhere": {"ray", "webdataset", "mlflow", "wandb"},
}
CODE = """
import json, sys
from nml_ray.pretrain.loop import train_group
from nml_ray.pretrain.plan import GroupPlan
from nml_ray.pretrain.world import World

train_group(GroupPlan.from_data(json.loads(sys.argv[1])), World(), lambda *told: None)
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.long
def test_a_training_process_imports_only_what_it_uses(make_plan):
    plan = replace(make_plan(epochs=1), trackers=("tensorboard",))
    command = [sys.executable, "-c", CODE, json.dumps(asdict(plan))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = set(json.loads(done.stdout))
    assert "torch" in imported
    assert {reason: modules & imported for reason, modules in NEEDLESS.items()} == {
        reason: set() for reason in NEEDLESS
    }
