"""This machine as a cluster: the code is a copy, the job outlives who submitted it, its end shows without a record."""

import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nml_ray.cluster import local, registry
from nml_ray.cluster.collect import collect
from nml_ray.cluster.config import LocalCluster, cluster_of
from nml_ray.cluster.local import Cluster
from nml_ray.cluster.package import Package
from nml_ray.cluster.record import record_of
from nml_ray.cluster.submission import Status, Submission, new_id
from nml_ray.config.errors import UserError
from nml_ray.storage.pulse import process_started
from tests.object_store import Bucket
from tests.submitted import code_directory, until

INLINE = ("job.yaml", "--inline")


class Site:
    """A directory of code that is submitted from."""

    def __init__(self, root: Path) -> None:
        self.root = code_directory(root / "code")
        self.storage = str(root / "runs")
        self.sent: list[Submission] = []

    def cluster(self, **settings: object) -> LocalCluster:
        return LocalCluster.model_validate({"kind": "local", "code": {"directory": str(self.root)}, **settings})

    def package(self) -> Package:
        return collect(self.cluster().code, self.root / "job.yaml").package

    def submission(self, package: Package, *arguments: str, **settings: object) -> Submission:
        data = self.cluster(**settings).model_dump(mode="json", exclude_unset=True)
        return Submission(new_id("tiny"), "tiny", data, self.storage, arguments, package.digest, "2026-11-24T00:00:00")

    def submit(self, *arguments: str, **settings: object) -> Submission:
        package = self.package()
        submission = self.submission(package, *(arguments or INLINE), **settings)
        submission = replace(submission, handle=backend(submission).submit(submission, package))
        self.sent.append(submission)
        registry.remember(submission)
        return submission


def backend(submission: Submission) -> Cluster:
    cluster = cluster_of(submission.cluster)
    assert isinstance(cluster, LocalCluster)
    return Cluster(cluster)


def status(submission: Submission) -> Status:
    found = backend(submission).status(submission)
    assert found is not None
    return found


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    site = Site(tmp_path)
    yield site
    for submission in site.sent:
        if status(submission).state == "running":
            os.kill(int(submission.handle["pid"]), signal.SIGKILL)


@pytest.mark.long
def test_a_job_runs_on_what_was_sent_and_reads_what_lies_here(site):
    (site.root / "nml_ray").mkdir()
    (site.root / "nml_ray" / "broken.py").write_text("this is not code")  # no package: the real one is sent
    submission = site.submit()
    (site.root / "job.yaml").unlink()
    text = "".join(backend(submission).follow(submission))
    assert text.splitlines()[-1] == f"report: {site.storage}/studies/tiny/report.html"
    assert status(submission) == Status("succeeded", text.splitlines()[-1], 0, "cluster")
    assert os.getsid(os.getpid()) != int(submission.handle["pid"])


@pytest.mark.long
def test_a_job_on_an_object_store(site, bucket: Bucket):
    site.storage = str(bucket.at("runs"))
    submission = site.submit()
    assert "report: " in "".join(backend(submission).follow(submission))
    assert status(submission).state == "succeeded"


@pytest.mark.long
def test_a_mistake_in_what_is_asked_for_is_the_jobs_end(site):
    submission = site.submit("job.yaml", "--inline", "--until", "nothing-of-that-name")
    text = "".join(backend(submission).follow(submission))
    assert "nothing-of-that-name" in text
    assert (status(submission).state, status(submission).exit_code) == ("failed", 2)


def test_environment_and_interpreter_are_the_clusters(site, tmp_path):
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho "$WORDS from $0" in $(pwd)\nexit 3\n')
    script.chmod(0o755)
    submission = site.submit(python=str(script), environment={"WORDS": "two words"})
    until(lambda: status(submission).ended)
    said = f"two words from {script} in {site.root}"
    assert status(submission) == Status("failed", said)  # it never came to write a record
    assert "".join(backend(submission).follow(submission)) == f"{said}\n"
    assert backend(submission).printed(submission) == f"{said}\n"


def test_what_cannot_be_laid_here_is_said_in_a_line(site, tmp_path):
    package = site.package()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "nml_ray").write_text("")
    submission = site.submission(package, *INLINE)
    with pytest.raises(UserError, match=r"state/nml_ray: the job cannot be started \(Not a directory\)"):
        backend(submission).submit(submission, package)


def test_of_code_that_could_not_be_unpacked_nothing_stays(site, tmp_path):
    package = site.package()
    submission = site.submission(package, *INLINE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # a file grows no further, as on a full disk
    try:
        with pytest.raises(UserError, match=r"state/nml_ray: the job cannot be started \(File too large\)"):
            backend(submission).submit(submission, package)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "state" / "nml_ray" / "code").iterdir()) == []


@pytest.mark.long
def test_stop_ends_a_job_and_a_second_stop_does_nothing(site):
    code_directory(site.root, epochs=10_000_000)
    submission = site.submit()
    until(lambda: record_of(site.storage, submission.id).read("status.json"))
    backend(submission).stop(submission)
    until(lambda: status(submission).ended)
    assert status(submission).state == "stopped"
    backend(submission).stop(submission)


def test_a_job_is_found_whose_sending_was_broken_off_as_it_began(site):
    submission = site.submit()
    broken_off = replace(submission, handle={"sender": "1"})
    assert status(broken_off).state == "running"
    backend(broken_off).stop(broken_off)
    until(lambda: status(submission).ended)
    assert status(submission).state == "stopped"


def test_a_job_can_be_stopped_before_it_begins(site):
    submission = site.submit()
    backend(submission).stop(submission)
    until(lambda: status(submission).ended)
    assert status(submission).state == "stopped"


def test_a_later_process_of_the_same_number_is_not_the_job(site, tmp_path):
    here = {"host": socket.gethostname(), "pid": str(os.getpid()), "process": "1", "directory": str(tmp_path)}
    submission = replace(site.submission(site.package(), *INLINE), handle=here)
    assert process_started(os.getpid()) != 1
    backend(submission).stop(submission)  # would end this test
    assert status(submission) == Status("failed", "ended before it began")


def test_jobs_of_other_machines_are_not_known_here(site):
    package = site.package()
    submission = replace(site.submission(package, *INLINE), handle={"host": f"not-{socket.gethostname()}"})
    assert backend(submission).status(submission) is None
    with pytest.raises(UserError, match=r"runs on not-.*; expected `nml-ray stop` on that machine"):
        backend(submission).stop(submission)


@pytest.mark.long
def test_code_is_kept_once_and_removed_when_nobody_uses_it(site, tmp_path, monkeypatch):
    code = tmp_path / "state" / "nml_ray" / "code"
    first, again = (site.submit("job.yaml", "--until", "nothing") for _ in range(2))
    assert [path.name for path in code.iterdir()] == [first.code] == [again.code]
    until(lambda: not any(process_started(int(one.handle["pid"])) > 0 for one in (first, again)))
    (site.root / "more.py").write_text("")
    monkeypatch.setattr(local, "_FRESH", 0)
    time.sleep(0.01)
    later = site.submit("job.yaml", "--until", "nothing")
    assert [path.name for path in code.iterdir()] == [later.code]
