"""What texts in settings look like, and how messages say it."""

from collections.abc import Mapping

NAME = r"^[a-z0-9][a-z0-9_-]*$"
KUBERNETES_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
MEMORY = r"^[0-9]+(\.[0-9]+)?(M|G|T)i?B?$"
SLURM_TIME = r"^([0-9]+-)?[0-9]+(:[0-9]+){0,2}$"
ADDRESS = r"^https?://[^/@\s]+/?$"
SHA256 = r"^[0-9a-f]{64}$"

EXPECTED: Mapping[str, str] = {
    NAME: "small letters, digits, - and _, such as my-study",
    KUBERNETES_NAME: "small letters, digits and -, such as gpu-workers",
    MEMORY: "a size such as 64GiB",
    SLURM_TIME: "minutes, HH:MM:SS or D-HH:MM:SS, such as 12:00:00",
    ADDRESS: "http://HOST:PORT or https://HOST, without a user or a path",
    SHA256: "64 hexadecimal digits",
}
