"""The finished encoder and classifier as plain safetensors that other libraries load."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from nml_ray.models.config import EncoderSettings


def export(model: Any, settings: EncoderSettings, directory: Path) -> None:
    """Write encoder.safetensors, encoder.json (its settings and input) and head.safetensors."""
    for name, module in (("encoder", model.encoder), ("head", model.head)):
        tensors = {key: value.detach().contiguous() for key, value in module.state_dict().items()}
        save_file(tensors, directory / f"{name}.safetensors")
    facts = {
        "settings": settings.model_dump(mode="json"),
        "dim": model.encoder.dim,
        "mean": list(model.encoder.input.mean),
        "std": list(model.encoder.input.std),
    }
    (directory / "encoder.json").write_text(json.dumps(facts, indent=1) + "\n")
