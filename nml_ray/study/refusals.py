"""What a job asks of its storage, against what that has: refused with the fix before anything starts."""

import os
import shutil
import tempfile
from math import ceil
from pathlib import Path
from uuid import uuid4

from nml_ray.config.errors import UserError
from nml_ray.storage import remote
from nml_ray.storage.location import Location
from nml_ray.storage.patience import Patience
from nml_ray.storage.shard_cache import size_text
from nml_ray.study.job import Job

_BRIEFLY = Patience(total=5)


def refuse_storage(place: Location, where: str) -> None:
    """Refuse storage in which nothing can be written: a small object is, and is removed. Of a directory that does not
    exist that in which it would be made is looked at.

    Raises:
        NoAccess: an object store that does not answer here, or not with these credentials.
        UserError: at `where`.
    """
    if place.remote:
        probe = place / f"writable-{uuid4().hex}"
        try:
            remote.write(b"{}", probe, _BRIEFLY)
            remote.remove(probe)
        except UserError as error:
            raise type(error)(f"storage cannot be written: {error}", where=where) from None
        return
    directory = _existing(place.local)
    try:
        with tempfile.NamedTemporaryFile(prefix=".writable-", dir=directory):
            pass
    except OSError as error:
        raise UserError(
            f"storage {place} cannot be written ({directory}: {error.strerror})",
            where=where,
            expected="a directory that you may write to, or a URL: --storage",
        ) from None


def refuse_disk(place: Path, needed: int, where: str) -> str:
    """Refuse a disk that has no room for the checkpoints; what they take, in a line.

    Args:
        place: the storage.
        needed: bytes.
        where: the setting that names the storage.

    Raises:
        UserError: at `where`.
    """
    free = shutil.disk_usage(_existing(place)).free
    if needed > free:
        raise UserError(
            f"checkpoints and encoders take up to {size_text(needed)}, and {place} has {size_text(free)} free",
            where=where,
            expected="another disk (--storage), fewer run.keep_checkpoints or fewer arms at once; `nml-ray gc` lists"
            " what no study needs",
        )
    return f"disk: checkpoints and encoders take up to {size_text(needed)} of {size_text(free)} free"


def checkpoint_bytes(job: Job, parameters: int, arms: int) -> int:
    """Bytes of disk that pre-training takes at most: the checkpoints of all arms of one seed, kept and being written,
    the best ones, and in the end every arm's encoder.

    Args:
        job: the job.
        parameters: of the model.
        arms: to do, over all seeds.
    """
    assert job.pretrain
    weights = 4 * parameters * (2 if job.pretrain.average else 1)
    state = 4 * parameters * (1 if job.pretrain.optimiser.name == "sgd" else 2)
    together = ceil(arms / len(job.pretrain.seeds)) if job.run.arms == "shared" else arms
    best = 2 * weights if "pretrain_validation" in job.given_splits() else 0
    return together * ((job.run.keep_checkpoints + 1) * (weights + state) + best) + arms * 4 * parameters


def _existing(path: Path) -> Path:
    path = Path(os.path.abspath(path))
    return next(one for one in (path, *path.parents) if one.exists())
