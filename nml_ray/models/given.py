"""Encoders that are there already: which files define one, where published weights are kept, what a job makes of it."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from nml_ray.config.errors import UserError
from nml_ray.models.config import CHECKPOINT, HUB, TRANSFORMERS, EncoderSettings
from nml_ray.storage.record import read_record

_OF_MODEL = ("config.json", "*.safetensors", "*.safetensors.index.json", "preprocessor_config.json")
_OF_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)
_OF_CHECKPOINT = ("encoder.json", "encoder.safetensors", "config.json", "tokenizer.json")


class NotHere(UserError):
    """Published weights that this machine's cache lacks; another's may have them."""


def given_files(settings: EncoderSettings) -> Mapping[str, Path]:
    """The files that define an encoder's weights, by the name that a link to each is to have; {} for random weights.

    No network is asked.

    Raises:
        UserError: they are not there; it says what to put where.
    """
    if settings.name == CHECKPOINT:
        return _checkpoint(Path(str(settings.weights)))
    if settings.name.startswith(TRANSFORMERS):
        return _model_files(settings)
    if settings.weights is None:
        return {}
    path = published_file(settings.name) if settings.weights == HUB else Path(settings.weights)
    return {f"weights{path.suffix}": path}


def leave_encoder(settings: EncoderSettings, directory: Path) -> None:
    """Make the encoder that `settings` names and leave it as pre-training would; `load_encoder` reads it.

    `settings.weights` is a file, or a directory of the files of `given_files` under their names.

    Raises:
        UserError: see `build_encoder` and `write_transformer`.
    """
    from nml_ray.models.encoder import build_encoder, load_encoder, write_encoder

    source = Path(str(settings.weights))
    if settings.name == CHECKPOINT:
        for path in _checkpoint(source).values():
            shutil.copy(path, directory / path.name)
        load_encoder(directory)
    elif settings.name.startswith(TRANSFORMERS):
        from nml_ray.models.transformer import write_transformer

        write_transformer(settings, source, directory)
    else:
        write_encoder(directory, build_encoder(settings), settings.model_copy(update={"weights": None}))


def published_file(name: str) -> Path:
    """The published weights of `timm:NAME`, `torchvision:NAME` or `open_clip:NAME/TAG`, where the cache has them.

    Raises:
        UserError: it has not, none are published under this name, or there is no such encoder.
    """
    from nml_ray.models.encoder import check_name, unknown_tag

    check_name(name)
    family, _, model = name.partition(":")
    repository, files = "", ("model.safetensors", "pytorch_model.bin")
    if family == "torchvision":
        return _of_torchvision(name, model)
    if family == "timm":
        import timm

        try:
            published = timm.models.get_pretrained_cfg(model)
        except RuntimeError as error:
            raise unknown_tag(model, error) from None
        repository = (published.hf_hub_id or "") if published and published.has_weights else ""
    elif family == "open_clip":
        from nml_ray.models.openclip import published as published_by_open_clip

        repository, _, file = published_by_open_clip(model).get("hf_hub", "").rpartition("/")
        files = (file, file) if file else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    if not repository:
        raise UserError(f"no weights are published for {name}", where="encoder.weights: hub", expected="a file's path")
    return _cached(name, repository, files)


def _of_torchvision(name: str, model: str) -> Path:
    import torch
    import torchvision

    url: str = torchvision.models.get_model_weights(model).DEFAULT.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not path.is_file():
        raise _absent(name, f"{path}, fetched from {url}")
    return path


def _cached(name: str, repository: str, files: Sequence[str]) -> Path:
    from huggingface_hub import constants, try_to_load_from_cache

    for file in files:
        if isinstance(found := try_to_load_from_cache(repository, file), str):
            return Path(found)
    raise _absent(name, f"{files[0]} in {constants.HF_HUB_CACHE}: `hf download {repository} {files[0]}`")


def _absent(name: str, mend: str) -> NotHere:
    return NotHere(
        f"the weights of {name} are not on this machine",
        where="encoder.weights",
        expected=f"{mend}; or the path of a copy as encoder.weights",
    )


def _model_files(settings: EncoderSettings) -> Mapping[str, Path]:
    if settings.weights is None or settings.weights == HUB:
        directory = _snapshot(settings.name)
    else:
        directory = Path(settings.weights)
    files = {path.name: path for pattern in (*_OF_MODEL, *_OF_TOKENIZER, "*.model") for path in directory.glob(pattern)}
    if "config.json" not in files or not any(name.endswith(".safetensors") for name in files):
        lacks = "config.json" if "config.json" not in files else "*.safetensors"
        raise UserError(
            f"holds no {lacks}",
            where=f"weights of {settings.name}: {directory}",
            expected="config.json, model.safetensors and tokenizer.json (or preprocessor_config.json for images)",
        )
    return files


def _snapshot(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repository = name.removeprefix(TRANSFORMERS)
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        mend = f"its files in {constants.HF_HUB_CACHE}: `hf download {repository}`"
        raise _absent(name, mend) from None


def _checkpoint(directory: Path) -> Mapping[str, Path]:
    """The files of an encoder's directory, or of the attempt that an artifact's record names."""
    record = read_record(directory) if directory.is_dir() else None
    if record:
        directory /= record["attempt"]
    files = {name: directory / name for name in _OF_CHECKPOINT if (directory / name).is_file()}
    for name in _OF_CHECKPOINT[:2]:
        if name not in files:
            raise UserError(
                f"holds no {name}", where=f"encoder.weights: {directory}", expected="what a finished pre-training left"
            )
    return files
