"""Why a job waits in Slurm's queue: what Slurm's word for it means, and what to do.

The words are those of `scontrol show job`, see https://slurm.schedmd.com/job_reason_codes.html; some are sentences with
underscores.
"""

import re
from collections.abc import Sequence

NEVER = "it never starts by itself"
_AGAIN = "nml-ray stop, mend the cluster file, submit again"
_RELEASE = "scontrol release {job}, or nml-ray stop"

_STUCK: Sequence[tuple[str, str]] = (
    ("JobHeldUser", f"you hold it; {_RELEASE}"),
    ("JobHeldAdmin", "an administrator holds it; ask, or nml-ray stop"),
    ("launch.failed.requeued.held", f"a node could not start it, and it is held; once that is mended {_RELEASE}"),
    ("JobHoldMaxRequeue|MaxRequeue|job.requeued.in.held.state", f"it is held, being queued again; {_RELEASE}"),
    ("BadConstraints", f"no node can ever have what it asks for; {_AGAIN}"),
    ("PartitionTimeLimit", f"'time' is beyond the partition's limit; {_AGAIN}: a job goes on after its limit of time"),
    ("PartitionNodeLimit", f"'nodes' is beyond what the partition allows; {_AGAIN}"),
    (r"(QOS|Assoc)Max\w*Per(Job|Node)\w*", f"it asks for more than one job may have by its qos or account; {_AGAIN}"),
    (r"QOSMin\w+|MaxMemPerLimit", f"it asks for less, or for more, than its qos allows; {_AGAIN}"),
    ("InvalidAccount|AccountNotAllowed", f"'account' may not be used there; {_AGAIN}"),
    ("InvalidQOS|QOSNotAllowed", f"'qos' may not be used there; {_AGAIN}"),
    ("DependencyNeverSatisfied", f"the job that it waits for has failed; {_AGAIN}"),
    ("ReservationDeleted", f"its reservation is gone; {_AGAIN}"),
)
_PASSES: Sequence[tuple[str, str]] = (
    ("Resources", "it waits for nodes that others use"),
    ("Priority", "others are before it"),
    ("BeginTime", "it begins a little later"),
    ("Dependency", "it waits for another job"),
    ("Reservation", "it waits for its reservation"),
    ("Licenses", "it waits for licences that others use"),
    ("ReqNodeNotAvail|NodeDown|Nodes.required.for.job.are.DOWN", "nodes that it needs are down or reserved"),
    ("PartitionDown|PartitionInactive", "the partition is down; wait, or nml-ray stop and another 'partition'"),
    (r"(QOS|Assoc)Grp\w*Minutes\w*", "the time of your group is used up; ask an administrator, or another 'account'"),
    (r"(QOS|Assoc)Grp\w*", "the limit of your group is reached; it waits for other jobs of the group"),
    (r"(QOS|Assoc)Max\w*", "your limit is reached; it waits for other jobs of yours"),
)


def words(reason: str, job: str) -> str:
    """One line about a reason of Slurm's: the reason, and what is known of it. "" where that says nothing.

    Where a job that has this reason never starts by itself, the line says so (`NEVER`).
    """
    if reason in ("", "None", "(null)"):
        return ""
    name = reason.partition(",")[0]
    for never, known in ((True, _STUCK), (False, _PASSES)):
        for pattern, text in known:
            if re.fullmatch(pattern, name):
                text = text.format(job=job)
                return f"{reason}: {NEVER}: {text}" if never else f"{reason}: {text}"
    return reason
