"""Names of encoders and the shapes that they train on, checked before anything starts.

Those of a library need it imported, which takes seconds, so only where the encoder is to be trained or made.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING

from nml_ray.config.document import Document, KeyPath
from nml_ray.config.errors import UserError
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.study.job import Job
from nml_ray.study.plan import Planned

if TYPE_CHECKING:
    from nml_ray.pretrain.preflight import Misfit

OWN = "small_resnet"
_PLACE = "encoder.name: "  # of a settings object alone; the job file knows better


def refuse_encoders(job: Job, document: Document, planned: Mapping[str, Planned]) -> None:
    """Refuse names that no library has, where the plan has an encoder to train or to make; of one to train also sizes
    of images and of microbatches that it does not take.

    Raises:
        UserError: at the place of the name, the encoder or the microbatch in the job file.
    """
    to_do = {one.stage.kind for one in planned.values() if one.state == "to do"}
    for path, name in _named(job, to_do):
        if name == OWN:
            continue
        from nml_ray.models.encoder import check_name

        try:
            check_name(name)
        except UserError as error:
            raise UserError(str(error).removeprefix(_PLACE), where=document.where(path)) from None
        if path[0] == "pretrain" and job.pretrain:
            _refuse_shapes(job.pretrain, document)


def remarks(job: Job) -> list[str]:
    """What is allowed and seldom meant, in lines."""
    bare = [one.name for one in job.encoders if one.weights is None and not one.from_directory]
    return [f"{name}: random weights; `weights: hub` or a file's path gives it trained ones" for name in bare]


def _refuse_shapes(settings: PretrainSettings, document: Document) -> None:
    if misfit := _misfit(_Shapes(settings)):
        raise UserError(misfit.found, where=document.where(("pretrain", misfit.field)), expected=misfit.expected)


class _Shapes:
    """Settings that are equal where they make images and microbatches of the same shapes for the same encoder."""

    def __init__(self, settings: PretrainSettings) -> None:
        self.settings = settings
        fields = settings.encoder.model_dump_json(), settings.train_size, settings.microbatch_size()
        self._key = (*fields, settings.objective)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Shapes) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@cache
def _misfit(shapes: _Shapes) -> "Misfit | None":
    from nml_ray.pretrain.preflight import misfit_of_shapes

    return misfit_of_shapes(shapes.settings)


def _named(job: Job, kinds: set[str]) -> Iterator[tuple[KeyPath, str]]:
    if job.pretrain and "pretrain" in kinds:
        yield ("pretrain", "encoder", "name"), job.pretrain.encoder.name
    for number, encoder in enumerate(job.encoders if "encoder" in kinds else ()):
        yield ("encoders", number, "name"), encoder.name
