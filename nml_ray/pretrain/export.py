"""The finished encoder and classifier as plain safetensors that other libraries load."""

from pathlib import Path

from safetensors.torch import save_file

from nml_ray.models.clip import ImageTextPair, write_pair
from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import write_encoder
from nml_ray.models.text_config import TextSettings
from nml_ray.pretrain.objective import Supervised


def export_pair(pair: ImageTextPair, settings: EncoderSettings, text: TextSettings, directory: Path) -> None:
    """Write encoder.safetensors and encoder.json, and the whole pair (see `models.clip.load_pair`)."""
    plain = settings.model_copy(update={"weights": None})
    write_encoder(directory, pair.encoder, plain)
    write_pair(directory, pair, plain, text)


def export(model: Supervised, settings: EncoderSettings, directory: Path) -> None:
    """Write encoder.safetensors and encoder.json (see `models.encoder.load_encoder`), and head.safetensors."""
    write_encoder(directory, model.encoder, settings.model_copy(update={"weights": None}))
    head = {name: tensor.detach().contiguous() for name, tensor in model.head.state_dict().items()}
    save_file(head, directory / "head.safetensors")
