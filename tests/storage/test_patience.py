"""What is tried again and what is told at once: the service's own words decide, never the names of objects."""

import pytest

from nml_ray.storage.patience import NotThere, lasting

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
