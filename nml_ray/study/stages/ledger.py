"""The ledger stage: which sample carries which label under an arm's noise, as evidence."""

from collections.abc import Sequence

from nml_ray.data.config import NoiseArm
from nml_ray.data.dataset import Dataset
from nml_ray.data.labels import noise_ledger
from nml_ray.data.ledger import write_ledger
from nml_ray.storage.atomic import write_json
from nml_ray.study.task import Context, Task


def run(tasks: Sequence[Task], context: Context) -> None:
    """Write ledger.parquet and summary.json of every arm."""
    for task in tasks:
        dataset = Dataset.open(task.inputs["shards"].path / "pretrain")
        labels = task.inputs.get("labels")
        file = str(labels.path / "labels.parquet") if labels else ""
        ledger = noise_ledger(dataset, NoiseArm.from_hashed(task.stage.settings["noise"], file))
        keys = dataset.good_keys
        summary = write_ledger(task.attempt.path / "ledger.parquet", keys, ledger, len(dataset.classes))
        write_json(task.attempt.path / "summary.json", summary)
        facts = {name: summary[name] for name in ("samples", "selected", "changed", "realised", "warnings")}
        task.attempt.finish(ledger_digest=summary["digest"], **facts)
