"""What the stages of a job take of the cluster, by kind. Nothing here is hashed."""

from nml_ray.config.cores import whole_cores
from nml_ray.study.job import Job, RunSettings
from nml_ray.study.stage import Resources

DRIVER = Resources()  # computed in the process of the driver
ALL = 1_000_000  # more processes than any cluster has room for: alone on it


def needs(job: Job, kind: str) -> Resources:
    """What a stage of a kind takes: of processes the most that it will run side by side."""
    run, gpu = job.run, 1 if job.run.device == "cuda" else 0
    if kind == "pretrain":
        return Resources(job.threads + run.decode_threads, gpu, run.most_workers, run.arms_together or 0)
    if kind == "extract":
        return Resources(job.threads + run.decode_threads, gpu * run.extract_gpus, run.most_extract_workers)
    if kind == "heads":
        return _heads(run)
    return DRIVER


def _heads(run: RunSettings) -> Resources:
    if run.heads_on == "cuda":
        return Resources(1, 1, run.head_workers or ALL)
    return Resources(1, 0, run.head_workers or run.cpus or whole_cores())
