"""The encoder stage: an encoder that is there already, by name and perhaps files of weights."""

from collections.abc import Sequence

from nml_ray.models.config import EncoderSettings
from nml_ray.models.given import leave_encoder
from nml_ray.study.task import Context, Task


def run(tasks: Sequence[Task], context: Context) -> None:
    """Leave each encoder as pre-training would: encoder.safetensors and encoder.json."""
    for task in tasks:
        leave_encoder(encoder_settings(task), task.attempt.path)
        task.attempt.finish(weights=task.stage.settings["encoder"]["weights"])


def encoder_settings(task: Task) -> EncoderSettings:
    """The encoder's settings with the weights where they lie now; what is hashed holds their digest."""
    settings = dict(task.stage.settings["encoder"])
    if "weights" in task.inputs:
        links = task.inputs["weights"].path
        whole = EncoderSettings.model_validate(settings).from_directory
        settings["weights"] = str(links if whole else next(links.iterdir()))
    return EncoderSettings.model_validate(settings)
