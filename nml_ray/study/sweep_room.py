"""The trials of a sweep against a cluster: each must have room by itself; how many run at once, the whole tells."""

from collections.abc import Collection

from nml_ray.config.document import Document
from nml_ray.config.errors import UserError
from nml_ray.config.override import override
from nml_ray.study.job import Job
from nml_ray.study.room import Misfit, Size, misfits, runs_of, side_by_side
from nml_ray.study.sweep import first_asked, said
from nml_ray.study.sweep_check import assignments


def trial_misfits(
    job: Job, document: Document, size: Size, kinds: Collection[str], inline: bool = False
) -> tuple[dict[str, list[Misfit]], list[str]]:
    """The trials of the first round that have no room, by how the user is told of them: "7 (run.workers=8)"; and what
    is said of the others, in lines. `kinds`: of stages that are to do."""
    asked, wrong, runs, together = first_asked(job), dict[str, list[Misfit]](), 0, 0
    for one in asked:
        try:
            trial, placed = job.at(one.point), override(document, assignments(one.point))
        except UserError:  # told by who looks at the trials themselves
            continue
        if found := misfits(trial, placed, size, kinds, inline)[0]:
            wrong[said(one)] = found
        elif trial.pretrain and "pretrain" in kinds and not inline:
            runs, together = runs + runs_of(trial), max(together, side_by_side(trial, size))
    if runs < 2:
        return wrong, []
    words = f"room: {len(asked)} trials with up to {runs} runs of pre-training, {min(runs, together)} at a time"
    return wrong, [words]
