"""What is tried again and what is told at once: the service's own words decide, never the names of objects."""

import pytest

from nml_ray.config.errors import UserError
from nml_ray.storage import patience
from nml_ray.storage.patience import NoAccess, NotThere, Patience, lasting, persistent

ASKED = "When reading information for key '{key}' in bucket '{bucket}': AWS Error {error}"
PASSING = [
    "SLOW_DOWN during HeadObject operation: Please reduce your request rate.",
    "INTERNAL_FAILURE during GetObject operation: Access Denied, says a proxy; the key was not found",
    "REQUEST_TIMEOUT during GetObject operation: does not exist",
    "NETWORK_CONNECTION during HeadObject operation: curlCode: 6, Couldn't resolve host name",
    "UNKNOWN (HTTP status 503) during HeadObject operation: No response body.",
    "UNKNOWN (HTTP status 500) during HeadObject operation: We encountered an internal error.",
]
LASTING = [
    ("ACCESS_DENIED during HeadObject operation: No response body.", "cannot be reached with these credentials"),
    ("UNKNOWN (HTTP status 403) during HeadObject operation: No response body.", "cannot be reached with these cred"),
    ("SIGNATURE_DOES_NOT_MATCH during ListObjectsV2 operation: The key does not exist?", "cannot be reached with"),
    (
        "INVALID_ACCESS_KEY_ID during ListObjectsV2 operation: The AWS Access Key Id you provided does not exist in "
        "our records.",
        "cannot be reached with these credentials",
    ),
    ("NO_SUCH_BUCKET during ListObjectsV2 operation: The specified bucket does not exist", "does not exist"),
    ("NO_SUCH_KEY during GetObject operation: The specified key does not exist.", "is not there"),
    ("RESOURCE_NOT_FOUND during HeadObject operation: No response body.", "is not there"),
    ("UNKNOWN (HTTP status 404) during HeadObject operation: No response body.", "is not there"),
    ("UNKNOWN (HTTP status 301) during HeadBucket operation: No response body.", "lies in another region"),
]
NAMES = ["a.tar", "signature-set/train.tar", "forbidden/status 404.tar", "it's not found's", "AWS Error ACCESS_DENIED"]


@pytest.mark.parametrize("name", NAMES)
def test_names_decide_nothing(name):
    for error in PASSING:
        assert lasting(OSError(ASKED.format(key=name, bucket="not-found-access-denied", error=error)), "s3://x") is None
    for error, told in LASTING:
        found = lasting(OSError(ASKED.format(key=name, bucket="slow_down", error=error)), "s3://x")
        assert str(found).startswith(f"s3://x: {told}")
        assert isinstance(found, NotThere) == (told == "is not there")
    for told in (
        "NOT_FOUND: No such object: b/permission denied",
        "PERMISSION_DENIED: b/not found (or it may not exist)",
    ):
        found = lasting(OSError(f"google::cloud::Status({told})"), "gs://x")
        assert isinstance(found, NotThere) == told.startswith("NOT_FOUND")
    assert lasting(OSError("google::cloud::Status(UNAVAILABLE: b/x not found)"), "gs://x") is None
    assert lasting(OSError(f"When resolving region for bucket '{name}': timed out"), "s3://x") is None
    assert isinstance(lasting(FileNotFoundError(2, f"Path does not exist '{name}'"), "s3://x"), NotThere)


def test_a_user_who_waits_is_told_sooner(monkeypatch):
    def fails() -> None:
        tried.append(1)
        raise OSError("When listing: AWS Error NETWORK_CONNECTION during ListObjectsV2 operation: no answer")

    def tries(asked: Patience | None) -> int:
        tried.clear()
        with pytest.raises(NoAccess, match="s3://x: cannot be reached"):
            persistent(fails, "s3://x", asked)
        return len(tried)

    tried = list[int]()
    some = Patience(first=0.001, most=0.002, total=0.02)
    monkeypatch.setattr(patience, "PATIENCE", some)
    assert tries(None) > 1
    with patience.at_most(Patience(total=0, connect=1, silence=2)):
        assert (tries(None), tries(some), patience.limits()) == (1, 1, (1, 2))
    with patience.at_most(patience.PLANNING):  # never longer than without it
        assert some == patience.PATIENCE
    assert some == patience.PATIENCE and tries(Patience(total=0)) == 1


def test_what_another_machine_may_reach_is_told_apart():
    told = {
        "ACCESS_DENIED during PutObject operation: No response body.": NoAccess,
        "NO_SUCH_BUCKET during PutObject operation: The specified bucket does not exist": UserError,
    }
    for error, kind in told.items():
        assert type(lasting(OSError(ASKED.format(key="k", bucket="b", error=error)), "s3://x")) is kind
