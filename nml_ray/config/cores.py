"""How many processor cores this process really has: what it may run on, and what its control group grants it."""

import os
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Cores:
    """`allowed` cores by affinity; `quota`: core-seconds a second that the control group grants, None for no limit."""

    allowed: int
    quota: float | None = None

    @property
    def usable(self) -> float:
        """Cores' worth of time: the smaller of the two."""
        return self.allowed if self.quota is None else min(self.allowed, self.quota)


def cores() -> Cores:
    """The cores of this process."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Cores(allowed, cgroup_quota(CGROUPS, OWN_CGROUPS))


def whole_cores() -> int:
    """Usable cores, rounded up: a quota of 1.5 keeps two threads busy most of the time."""
    return max(1, -int(-cores().usable // 1))


def cgroup_quota(root: Path, own: Path) -> float | None:
    """The tightest CPU quota among a process's control groups and those above them (version 2 and 1).

    Args:
        root: where the control groups are mounted.
        own: the process's /proc/.../cgroup.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers if controllers else root
        group = top / path.lstrip("/")
        above = [one for one in (group, *group.parents) if one == top or top in one.parents]
        quotas += [_quota(one, bool(controllers)) for one in above]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(group: Path, first_version: bool) -> float | None:
    try:
        if first_version:
            limit, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        else:
            limit, period = (group / "cpu.max").read_text().split()
        return None if limit in ("max", "-1") else int(limit) / int(period)
    except (OSError, ValueError):
        return None
