"""The trackers that a run can report to, and what each needs installed. No tracker is imported here."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

TrackerName = Literal["tensorboard", "mlflow", "wandb"]
PACKAGES: dict[TrackerName, tuple[str, str]] = {  # module that is imported, what pip installs
    "tensorboard": ("tensorboardX", "tensorboardX"),
    "mlflow": ("mlflow", "mlflow-skinny"),
    "wandb": ("wandb", "wandb"),
}


def missing_tracker(names: Sequence[TrackerName]) -> str:
    """What to install for the first tracker that cannot be used here; "" where all can."""
    for name in names:
        module, package = PACKAGES[name]
        spec = find_spec(module)
        if spec is None or spec.loader is None or spec.origin is None:  # W&B and others leave folders of their name
            return f"tracker '{name}' needs a package that is not installed: pip install {package}"
    return ""
