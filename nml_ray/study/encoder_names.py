"""Names of encoders, checked before anything starts.

Those of a library need it imported, which takes seconds, so only where the encoder is to be trained or made.
"""

from collections.abc import Iterator, Mapping

from nml_ray.config.document import Document, KeyPath
from nml_ray.config.errors import UserError
from nml_ray.study.job import Job
from nml_ray.study.plan import Planned

OWN = "small_resnet"
_PLACE = "encoder.name: "  # of a settings object alone; the job file knows better


def refuse_encoders(job: Job, document: Document, planned: Mapping[str, Planned]) -> None:
    """Refuse names that no library has, where the plan has an encoder to train or to make.

    Raises:
        UserError: at the name's place in the job file.
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


def _named(job: Job, kinds: set[str]) -> Iterator[tuple[KeyPath, str]]:
    if job.pretrain and "pretrain" in kinds:
        yield ("pretrain", "encoder", "name"), job.pretrain.encoder.name
    for number, encoder in enumerate(job.encoders if "encoder" in kinds else ()):
        yield ("encoders", number, "name"), encoder.name
