"""What the tests of elastic runs look at: the losses told by step, and the audit."""

import json
from pathlib import Path

from nml_ray.pretrain.audit import AuditedRun, audit_run
from nml_ray.storage.artifact import Attempt

ENCODER = {"name": "timm:test_convnext", "size": 32, "channels": 3}  # LayerNorm
"""BatchNorm's running statistics would be a mean over the workers, and so depend on their number."""


def losses(plan) -> dict[int, float]:
    """The loss that counts of every step that telemetry tells."""
    lines = (Path(plan.arms[0].attempt) / "telemetry.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines) if "loss" in line}


def audited(plan, facts, data: Path):
    """The audit's report of a run of one arm that ended with `facts`."""
    settings = {"pretrain": dict(plan.settings), "noise": dict(plan.arms[0].noise), "seed": plan.seed}
    artifact = Attempt(Path(plan.arms[0].attempt)).finish(settings=settings, **facts)
    return audit_run(AuditedRun("arm", artifact.path.parent, artifact.record, data))


def workers_by_step(facts) -> list[tuple[int, int]]:
    """From which step on how many workers went on."""
    return [(one["from_step"], one["workers"]) for one in facts["lineage"]]
