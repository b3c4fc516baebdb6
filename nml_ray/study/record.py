"""What an artifact's record says of where it was made."""

import os
import platform
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("nml_ray", "torch", "torchvision", "ray", "numpy", "pyarrow", "timm", "webdataset", "pillow")


@cache
def versions() -> Mapping[str, str]:
    """Versions of Python and of the packages that bear on results, without importing any of them."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def machine() -> Mapping[str, Any]:
    """What of this machine the bits of a result may depend on."""
    model, flags = _processor()
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": model,
        "vector_instructions": [flag for flag in ("avx", "avx2", "avx512f", "amx_tile") if flag in flags],
        "cpus": os.cpu_count(),
    }


def _processor() -> tuple[str, set[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor(), set()
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    return facts.get("model name", platform.processor()), set(facts.get("flags", "").split())
