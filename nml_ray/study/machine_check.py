"""What a job asks for and this machine lacks, a GPU or a package, found before anything starts."""

from collections.abc import Mapping

from nml_ray.config.document import Document
from nml_ray.config.errors import UserError
from nml_ray.pretrain.tracker_names import missing_tracker
from nml_ray.study.job import Job
from nml_ray.study.plan import Planned

NO_GPU = "PyTorch finds no CUDA device here"


def missing_device(job: Job, planned: Mapping[str, Planned]) -> str:
    """The field of `run` by which stages that are to do ask for a GPU, where there is none; otherwise "".

    PyTorch is imported, which takes seconds, only where one is asked for.
    """
    to_do = {one.stage.kind for one in planned.values() if one.state == "to do"}
    of_heads = "head_device" if job.run.head_device else "device"
    users = (("device", {"pretrain", "extract"}), (of_heads, {"heads"}))
    asked = [field for field, kinds in users if kinds & to_do and getattr(job.run, field) == "cuda"]
    if not asked:
        return ""
    import torch

    return "" if torch.cuda.is_available() else asked[0]


def refuse_device(job: Job, document: Document, planned: Mapping[str, Planned]) -> None:
    """Refuse a GPU that this machine lacks.

    Raises:
        UserError: at its place in the job file.
    """
    if field := missing_device(job, planned):
        raise UserError(NO_GPU, where=document.where(("run", field)), expected=f"run.{field}: cpu")


def refuse_trackers(job: Job, document: Document) -> None:
    """Refuse trackers whose packages this machine lacks; to read what was trained, none is needed.

    Raises:
        UserError: at their place in the job file.
    """
    if job.pretrain and (missing := missing_tracker(job.run.trackers)):
        raise UserError(missing, where=document.where(("run", "trackers")))
