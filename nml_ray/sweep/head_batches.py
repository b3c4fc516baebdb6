"""Trials of heads that are trained as one program, as a GPU wants them: several trials are one."""

import traceback
from collections.abc import Mapping, Sequence

from nml_ray.config.errors import UserError
from nml_ray.heads.config import parse_setting
from nml_ray.storage.artifact import Store
from nml_ray.storage.digest import canonical_json, digest_of
from nml_ray.storage.mirror import present
from nml_ray.sweep.heads import arrived_at, leave, samples
from nml_ray.sweep.trials import Trial

BATCHED = "batched"
"""The form of a fit that was trained with others as one program."""


def together(trials: Sequence[Trial], device: str, parts: int = 1) -> list[Trial]:
    """Trials of several trials each: those of one encoder's features, task and fraction, cut so that there are about
    `parts` in all, or more where there are more of these.

    Which of them share a program is decided where the device's free memory is known.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        shared = {name: value for name, value in trial.payload.items() if name not in ("setting", "seed")}
        groups.setdefault(canonical_json(shared), []).append(trial)
    each = -(-parts // max(len(groups), 1))
    return [_one(group[number::each], device) for group in groups.values() for number in range(min(each, len(group)))]


def _one(trials: Sequence[Trial], device: str) -> Trial:
    entries = [{"name": trial.name, "digest": trial.digest, "payload": dict(trial.payload)} for trial in trials]
    name = trials[0].name if len(trials) == 1 else f"{trials[0].name} and {len(trials) - 1} more"
    digest = digest_of([trial.digest for trial in trials])[:16]
    return Trial(name, digest, {"trials": entries, "device": device})


def members(batch: Trial) -> list[Trial]:
    """The trials that one of `together` is made of."""
    return [Trial(**entry) for entry in batch.payload["trials"]]


def of_members(reasons: Mapping[str, str], batches: Sequence[Trial], store: Store) -> dict[str, str]:
    """Why trials failed, by their digests, given it by the names of batches: all that have no result."""
    failed = [(trial, reasons[batch.name]) for batch in batches if batch.name in reasons for trial in members(batch)]
    return {trial.digest: reason for trial, reason in failed if store.artifact("trial", trial.digest) is None}


def fit_together(batch: Trial) -> None:
    """Fit the trials of one of `together`, and leave each as the artifact that `heads.fit_trial` leaves.

    Their records say that they were `batched`, on which device, and how many were trained together. If something fails,
    what was not yet finished leaves the traceback in its attempt.
    """
    trials = members(batch)
    attempts = [
        Store(present(trial.payload["store"])).attempt("trial", trial.digest, trial=trial.name) for trial in trials
    ]
    open_ones = dict(enumerate(attempts))
    try:
        from nml_ray.heads.batch_fit import Samples, fit_batches

        device = _found(batch.payload["device"])
        settings = [parse_setting(trial.payload["setting"]) for trial in trials]
        seeds = [trial.payload["seed"] for trial in trials]
        train, validation, metric = samples(arrived_at(trials[0].payload))
        given = Samples(train.values, train.labels, train.hashes)
        for fit in fit_batches(settings, seeds, given, device):
            attempt = open_ones[fit.number]
            facts = leave(fit.head, validation, metric, attempt.path)
            attempt.finish(**facts, form=BATCHED, device=device, together=fit.together)
            del open_ones[fit.number]
    except BaseException:
        reason = traceback.format_exc()
        for attempt in open_ones.values():
            attempt.fail(reason)
        raise


def _found(device: str) -> str:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch finds no CUDA device here", where="run.head_device", expected="cpu")
    return device
