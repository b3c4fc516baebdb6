"""The encoder stage: an encoder that is there already, by name and perhaps a file of weights."""

from collections.abc import Sequence

from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import build_encoder, write_encoder
from nml_ray.study.task import Context, Task


def run(tasks: Sequence[Task], context: Context) -> None:
    """Leave each encoder as pre-training would: encoder.safetensors and encoder.json."""
    for task in tasks:
        settings = encoder_settings(task)
        encoder = build_encoder(settings)
        write_encoder(task.attempt.path, encoder, settings.model_copy(update={"weights": None}))
        task.attempt.finish(weights=task.stage.settings["encoder"]["weights"])


def encoder_settings(task: Task) -> EncoderSettings:
    """The encoder's settings with the weights where they lie now; what is hashed holds their digest."""
    settings = dict(task.stage.settings["encoder"])
    if "weights" in task.inputs:
        settings["weights"] = str(next(task.inputs["weights"].path.iterdir()))
    return EncoderSettings.model_validate(settings)
