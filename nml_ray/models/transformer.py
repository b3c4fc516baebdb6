"""Models of the transformers package as encoders of images or texts.

They are made from a directory of files as the Hugging Face hub has them: config.json, safetensors, and the tokenizer or
the image processor's settings. Code that came with a model is never run, and nothing is unpickled.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nml_ray.config.errors import UserError
from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import SETTINGS_FILE, WEIGHTS_FILE, Encoder, TextEncoder, read_description, seeded
from nml_ray.models.preprocess import InputSpec, Interpolation
from nml_ray.models.pretrained import load_weights
from nml_ray.models.tokens import ALIVE, IDS, TextSpec

CONFIG_FILE, TOKENIZER_FILE, PROCESSOR_FILE = "config.json", "tokenizer.json", "preprocessor_config.json"
_FILTERS: Mapping[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers
_LONGEST = 4096  # tokens; some tokenizers know no limit


class Pooled(nn.Module):
    """A model whose states are pooled to one vector a sample, as `EncoderSettings.pooling` says.

    Texts come as tokens [N, 2, L] (`models.tokens`), images normalised as [N, 3, H, W].
    """

    def __init__(self, model: nn.Module, pooling: str, texts: bool) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.texts = texts

    def forward(self, batch: Tensor) -> Tensor:
        alive = batch[:, ALIVE] if self.texts else None
        inputs = {"input_ids": batch[:, IDS], "attention_mask": alive} if self.texts else {"pixel_values": batch}
        found = self.model(**inputs)
        return found.pooler_output.flatten(1) if self.pooling == "pooler" else self._pool(found[0], alive)

    def _pool(self, states: Tensor, alive: Tensor | None) -> Tensor:
        if states.ndim == 4:  # of a convolutional network: [N, D, H, W]
            states = states.flatten(2).transpose(1, 2)
        if self.pooling == "cls":
            return states[:, 0]
        if self.pooling == "last":
            last = alive.sum(1).clamp(min=1) - 1 if alive is not None else torch.full((len(states),), -1)
            return states[torch.arange(len(states), device=states.device), last.to(states.device)]
        if alive is None:
            return states.mean(1)
        weights = alive.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def write_transformer(settings: EncoderSettings, source: Path, target: Path) -> None:
    """Leave the model of the files in `source` as an encoder's directory, which `load_encoder` reads.

    Raises:
        UserError: files are missing or do not fit each other; a model of an unknown kind, of images and texts at once,
            that needs code of its own, or without the pooling that is asked for.
    """
    model = _published(source, settings)
    texts = model.main_input_name == "input_ids"
    spec = _text_spec(source, target, settings, model) if texts else _input_spec(source)
    pooled = Pooled(model, str(settings.pooling), texts).eval()
    dim = _width(pooled, spec, source, settings)
    _save(pooled, target / WEIGHTS_FILE)
    model.config.save_pretrained(target)
    own = {**settings.model_dump(mode="json"), "weights": None}
    facts = {"settings": own, "dim": dim, "input": {**asdict(spec), "file": TOKENIZER_FILE} if texts else asdict(spec)}
    (target / SETTINGS_FILE).write_text(json.dumps(facts, indent=1) + "\n")


def load_transformer(directory: Path) -> Encoder | TextEncoder:
    """The encoder that `write_transformer` left, in evaluation mode."""
    transformers = installed()
    facts = json.loads((directory / SETTINGS_FILE).read_text())
    description = read_description(directory)
    config = transformers.AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    with seeded(0):
        model = _encoding(transformers.AutoModel.from_config(config, trust_remote_code=False, dtype=torch.float32))
    texts = "context" in facts["input"]
    pooled = Pooled(model, str(description.settings.pooling), texts)
    load_weights(pooled, directory / WEIGHTS_FILE)
    if texts:
        spec = TextSpec(**{**facts["input"], "file": str(directory / TOKENIZER_FILE)})
        return TextEncoder(pooled, description.dim, spec).eval()
    return Encoder(pooled, description.dim, input_spec(facts["input"])).eval()


def input_spec(data: Mapping[str, Any]) -> InputSpec:
    """An `InputSpec` from JSON, whose lists it had as tuples."""
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    return InputSpec(**plain)


def installed() -> Any:
    """The transformers package. Raises `UserError` where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise UserError(
            "the package transformers is not installed",
            where="encoder.name: transformers:...",
            expected="`pip install 'nml_ray[transformers]'`",
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _published(source: Path, settings: EncoderSettings) -> Any:
    """The model of a directory, float32, without its decoder where it has one."""
    from safetensors import SafetensorError

    transformers = installed()
    options = {"trust_remote_code": False, "local_files_only": True}
    try:
        config = transformers.AutoConfig.from_pretrained(source, **options)
        if hasattr(config, "vision_config") and hasattr(config, "text_config"):
            raise UserError(
                f"{settings.name} is a model of images and texts at once",
                where=str(source / CONFIG_FILE),
                expected="a model of either; open_clip:NAME takes the image tower of a pair",
            )
        with seeded(0):
            model, said = transformers.AutoModel.from_pretrained(
                source, **options, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{settings.name} cannot be made ({str(error).strip().partition(chr(10))[0]})",
            where=str(source),
            expected="config.json and model.safetensors of a model that the transformers package knows",
        ) from None
    missing = [name for name in said["missing_keys"] if settings.pooling == "pooler" or "pooler" not in name]
    if missing or said["mismatched_keys"]:
        names = sorted(missing or map(str, said["mismatched_keys"]))
        raise UserError(
            f"{len(names)} tensors are missing or of another shape ({', '.join(names[:3])})",
            where=str(source),
            expected="the model's whole weights" + (", its pooler too" if settings.pooling == "pooler" else ""),
        )
    return _encoding(model)


def _encoding(model: Any) -> Any:
    return model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model


def _text_spec(source: Path, target: Path, settings: EncoderSettings, model: Any) -> TextSpec:
    """Leaves the tokenizer as one file in `target`."""
    try:
        options = {"trust_remote_code": False, "local_files_only": True}
        tokenizer = installed().AutoTokenizer.from_pretrained(source, **options)
        tokenizer.backend_tokenizer.save(str(target / TOKENIZER_FILE))
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise UserError(
            f"the tokenizer cannot be made ({str(error).strip().partition(chr(10))[0]})",
            where=str(source),
            expected="tokenizer.json beside the weights, or the vocabulary that it is made from",
        ) from None
    known = getattr(model.config, "max_position_embeddings", None) or _LONGEST
    known -= _first_position(model)
    longest = min(_LONGEST, tokenizer.model_max_length, known)
    context = settings.context or longest
    if context > longest:
        raise UserError(f"{context} tokens", where="encoder.context", expected=f"at most {longest}, as {settings.name}")
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    return TextSpec(str(target / TOKENIZER_FILE), context, padding)


def _first_position(model: nn.Module) -> int:
    """Rows of the table of positions that no token gets: RoBERTa and its kin count from behind the padding's."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0


def _input_spec(source: Path) -> InputSpec:
    """The input that preprocessor_config.json describes."""
    path = source / PROCESSOR_FILE
    try:
        return _described(json.loads(path.read_text()))
    except OSError:
        raise UserError("no such file", where=str(path), expected="the settings of the image processor") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"cannot be understood ({type(error).__name__}: {error})",
            where=str(path),
            expected="size, crop_size, resample, image_mean and image_std as image processors have them",
        ) from None


def _described(data: Mapping[str, Any]) -> InputSpec:
    size, crop = _sides(data["size"]), _sides(data.get("crop_size", data["size"]))
    side = crop if isinstance(crop, int) else crop[0]
    share = data.get("crop_pct")
    if not data.get("do_resize", True):
        resize: int | tuple[int, int] = side
    elif share and isinstance(size, int):  # as ConvNeXt has it: the shorter side before the crop is size / crop_pct
        resize, side = int(size / share), size
    elif data.get("do_center_crop", False) or isinstance(size, int):
        resize = size
    else:
        resize, side = size, size[0]
    plain = not data.get("do_normalize", True)
    mean, std = ((0.0,) * 3, (1.0,) * 3) if plain else (tuple(data["image_mean"]), tuple(data["image_std"]))
    # Its pixels are multiples of the factor, ours of 1/255.
    scale = 1 / (255 * float(data.get("rescale_factor", 1 / 255))) if data.get("do_rescale", True) else 1 / 255
    mean, std = tuple(scale * one for one in mean), tuple(scale * one for one in std)
    return InputSpec(3, side, mean, std, resize, _FILTERS[data.get("resample", 2)])


def _sides(size: Any) -> int | tuple[int, int]:
    if isinstance(size, int):
        return (size, size)
    if "shortest_edge" in size:
        return int(size["shortest_edge"])
    return int(size["height"]), int(size["width"])


@torch.inference_mode()
def _width(pooled: Pooled, spec: InputSpec | TextSpec, source: Path, settings: EncoderSettings) -> int:
    batch = torch.ones(1, 2, 2, dtype=torch.int64)
    if isinstance(spec, InputSpec):
        batch = torch.zeros(1, 3, spec.size, spec.size)
    try:
        return int(pooled(batch).shape[1])
    except (AttributeError, TypeError) as error:
        raise UserError(
            f"{settings.name} has no pooling '{settings.pooling}' ({error})",
            where=str(source),
            expected="another of encoder.pooling: cls, mean, last, pooler",
        ) from None


def _save(module: nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    # cloned: tensors that a model uses twice would share their memory
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in module.state_dict().items()}, str(path))
