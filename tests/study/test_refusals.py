"""What a storage has no room for is refused with the fix."""

from pathlib import Path

import pytest

from nml_ray.config.document import Document
from nml_ray.config.errors import UserError
from nml_ray.config.validate import validate
from nml_ray.storage import patience
from nml_ray.storage.location import Location
from nml_ray.storage.patience import Patience
from nml_ray.study import refusals
from nml_ray.study.job import Job
from nml_ray.study.refusals import checkpoint_bytes, refuse_disk, refuse_storage
from tests.object_store import Bucket, Fault


def job_of(**run) -> tuple[Job, Document]:
    document = Document(
        "job.yaml",
        {
            "name": "s",
            "data": {"icons": {}},
            "noise": {"ratios": ["0", "0.1", "0.2"]},
            "pretrain": {"seeds": [0, 1], "batch": 64, "microbatch": 4},
            "extract": {},
            "heads": {"sweep": [{"head": "linear_probe"}]},
            "run": run,
        },
    )
    return validate(Job, document), document


def test_storage_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    refuse_storage(Location("", str(tmp_path / "new/runs")), "--storage")
    assert list(tmp_path.iterdir()) == []


def test_storage_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--storage: storage .*file/runs cannot be written .*; expected a directory"):
        refuse_storage(Location("", str(tmp_path / "file/runs")), "--storage")


@pytest.mark.long
def test_an_object_store_is_written_to(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "_BRIEFLY", Patience(first=0.01, most=0.02, total=0.5))
    monkeypatch.setattr(patience, "PATIENCE", Patience(first=0.01, most=0.02, total=0.5))
    refuse_storage(bucket.at("runs"), "--storage")
    assert [method for method, path in bucket.faults.asked if "writable-" in path and method == "DELETE"]
    bucket.faults.spoil = lambda method, path: Fault(status=403) if method in ("PUT", "POST") else None
    with pytest.raises(UserError, match=r"--storage: storage cannot be written: .*credentials"):
        refuse_storage(bucket.at("runs"), "--storage")


def test_a_disk_without_room_is_refused(tmp_path: Path) -> None:
    assert refuse_disk(tmp_path / "runs", 1000, "--storage").startswith(
        "disk: checkpoints and encoders take up to 1 kB"
    )
    with pytest.raises(UserError, match=r"--storage: .* take up to 1e\+09 GB.* free; expected .*nml-ray gc"):
        refuse_disk(tmp_path / "runs", 10**18, "--storage")


def test_bytes_of_checkpoints() -> None:
    job, _ = job_of(keep_checkpoints=2)
    weights = 4 * 1000
    state = 2 * weights  # AdamW keeps two values for each weight
    assert checkpoint_bytes(job, 1000, 6) == 3 * 3 * (weights + state) + 6 * weights
    sweep, _ = job_of(arms="sweep")
    assert checkpoint_bytes(sweep, 1000, 6) == 6 * 3 * (weights + state) + 6 * weights
