"""The points of a sweep that are known before anything has run, each looked at as the job that it is."""

from collections.abc import Mapping

from nml_ray.config.document import Document
from nml_ray.config.errors import UserError
from nml_ray.config.override import override
from nml_ray.study.encoder_names import refuse_encoders
from nml_ray.study.execute import plan_study, store_of
from nml_ray.study.expand import Study
from nml_ray.study.feed import refuse_feed_of
from nml_ray.study.job import Job
from nml_ray.study.machine_check import refuse_device, refuse_trackers
from nml_ray.study.plan import Planned
from nml_ray.study.sweep import first_asked, key_of, none_is_right, said, studies_of, study_of
from nml_ray.study.sweep_check import assignments
from nml_ray.study.union import union
from nml_ray.sweep.search import Asked


def wrong_points(job: Job, document: Document, *, device: bool, trackers: bool = True) -> dict[str, str]:
    """What is wrong with trials of the first round, by how the user is told of them: "7 (noise.ratios=[0])".

    Args:
        job: with a section `sweep`.
        document: of the job, for places.
        device: whether a GPU that this machine lacks is a mistake.
        trackers: whether trackers are whose packages it lacks.

    Raises:
        UserError: every trial is wrong; this machine lacks what the section `run` asks for.
    """
    asked = first_asked(job)
    studies, mistakes = studies_of(job, asked)
    joined = union(studies)
    planned = plan_study(study_of(joined), store_of(job))
    names = dict(zip(studies, joined.names, strict=True))
    wrong: dict[str, str] = {}
    for one in asked:
        key = key_of(one)
        mistake = mistakes.get(key, "")
        if key in studies:
            own = {name: planned[called] for name, called in names[key].items()}
            point, placed = job.at(one.point), override(document, assignments(one.point))
            if trackers:
                refuse_trackers(point, placed)
            if device:
                refuse_device(point, placed, own)
            mistake = _mistake(point, placed, one, studies[key], own)
        if mistake:
            wrong[said(one)] = mistake
    if wrong and len(wrong) == len(asked):
        raise none_is_right(wrong)
    return wrong


def _mistake(point: Job, placed: Document, one: Asked, study: Study, planned: Mapping[str, Planned]) -> str:
    try:
        refuse_encoders(point, placed, planned)
        refuse_feed_of(point, placed, study, planned)
    except UserError as error:
        words = str(error)
        own = next((place for text in assignments(one.point) if words.startswith(place := f"--set {text}: ")), "")
        return words.removeprefix(own)
    return ""
