"""Kubernetes with the KubeRay operator: a job is a RayJob, told to kubectl.

`stop` suspends the RayJob. KubeRay then ends all its pods, without a word to the job; before they end, the head's pod
sends SIGTERM to the supervisor and waits for it, the others wait for the work they do (drain.py), for `stop_seconds`.
The suspended RayJob stays, holding nothing, and tells that it was stopped; `cluster down` removes it.
"""

import importlib.metadata
import json
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import click
import yaml

from nml_ray.cluster import registry
from nml_ray.cluster.config import KubeRayCluster
from nml_ray.cluster.kubectl import Kubectl, NotThere
from nml_ray.cluster.manifest import MANAGED_BY, MANAGER, PART, PARTS, SUBMISSION, SUBMITTER, Manifest, manifests
from nml_ray.cluster.package import Package
from nml_ray.cluster.rayjob import status_of, waits_for
from nml_ray.cluster.submission import Status, Submission
from nml_ray.config.errors import UserError, nearest_name

_PACE = 2.0  # seconds between two looks at the cluster
_PATIENCE = 120  # seconds for which a cluster that does not answer is asked again while a log is followed
_UPLOAD = 120  # seconds for sending a job, and for its whole log
_JOB = "rayjobs.ray.io"


class Cluster:
    """See `backend.Backend`."""

    def __init__(self, cluster: KubeRayCluster) -> None:
        self.cluster = cluster
        self.kubectl = Kubectl(cluster.context, cluster.namespace)

    def check(self) -> tuple[str, ...]:
        """kubectl, the cluster, the operator, the right to submit, and what the pods refer to."""
        check_settings(self.cluster, self.cluster.storage)
        context = self.kubectl.current_context()
        self._look_for_operator()
        for what in (_JOB, "configmaps"):
            self._may_create(what)
        for kind, names in self._referred().items():
            for name in names:
                self._exists(kind, name)
        return (
            f"Kubernetes: context {context or '(of this pod)'}, namespace {self.cluster.namespace}",
            f"KubeRay: takes RayJobs with a token; pods with Ray {ray_version()} in {self.cluster.image}",
        )

    def render(self, submission: Submission, package: Package) -> str:
        """The documents as YAML."""
        return _text(self._documents(submission, package))

    def submit(self, submission: Submission, package: Package) -> Mapping[str, str]:
        """Apply the documents; the ConfigMaps are removed with the RayJob."""
        *maps, job = self._documents(submission, package)
        context = self.kubectl.current_context()
        kubectl = Kubectl(context, self.cluster.namespace)
        self._look_for_operator()
        apply = ["apply", "--server-side", "--field-manager", MANAGER, "-f", "-"]  # else a copy in an annotation
        try:
            kubectl.run(*apply, text=_text(maps), seconds=_UPLOAD)
            uid = kubectl.run(*apply, "-o", "jsonpath={.metadata.uid}", text=_text([job]), seconds=_UPLOAD)
        except UserError:
            with suppress(UserError):
                kubectl.run("delete", "configmap", "-l", f"{SUBMISSION}={submission.id}", "--wait=false")
            raise
        owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": submission.id, "uid": uid.strip()}
        owned = [_owned(one, owner) for one in maps]
        apply[3] = f"{MANAGER}-owner"
        kubectl.run(*apply, text=_text(owned), seconds=_UPLOAD)
        return {"name": submission.id, "namespace": self.cluster.namespace, "context": context}

    def status(self, submission: Submission) -> Status | None:
        """By the RayJob, and by its pods while it waits."""
        kubectl = self._kubectl_of(submission)
        try:
            job = kubectl.read("get", _JOB, submission.id)
        except NotThere:
            return None
        status = status_of(job)
        if status.state == "queued" and (reason := waits_for(_pods(kubectl, submission))):
            return Status("queued", reason)
        return status

    def follow(self, submission: Submission) -> Iterator[str]:
        """The log of the submitter's pod, or of the next one where it was replaced."""
        kubectl = self._kubectl_of(submission)
        shown: set[str] = set()
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                status = self.status(submission)
                pods = [one for one in _submitters(kubectl, submission) if one not in shown]
            except UserError:
                if time.monotonic() > until:
                    raise
                time.sleep(_PACE)
                continue
            for pod in pods:
                if shown:
                    yield "[the log from its beginning, by another pod]\n"
                yield from _log(kubectl, pod)
                shown.add(pod)
            if status is None or (status.ended and not pods):
                return
            until = time.monotonic() + _PATIENCE
            if not pods:
                time.sleep(_PACE)

    def printed(self, submission: Submission) -> str:
        """The log of the last submitter's pod."""
        kubectl = self._kubectl_of(submission)
        try:
            pods = _submitters(kubectl, submission)
            return kubectl.run("logs", pods[-1], "-c", SUBMITTER, seconds=_UPLOAD) if pods else ""
        except NotThere:
            return ""

    def stop(self, submission: Submission) -> None:
        """Suspend the RayJob; see above."""
        status = self.status(submission)
        if status is None or status.ended:
            return
        patch = json.dumps({"spec": {"suspend": True}})
        self._kubectl_of(submission).run("patch", _JOB, submission.id, "--type=merge", "-p", patch)

    def up(self) -> None:
        """Nothing is up between jobs: each brings its own cluster. Says whether one could."""
        for line in self.check():
            click.echo(line)
        click.echo("Each job brings a Ray cluster of its own up, and takes it down.")

    def down(self) -> None:
        """Remove the RayJobs that were submitted from here, running ones too, and say which others there are."""
        ours = {one.id for one in registry.known()}
        found = {job["metadata"]["name"]: status_of(job) for job in self._jobs()}
        if mine := [name for name in found if name in ours]:
            for name in mine:
                click.echo(f"removing {name} ({found[name].state})")
            seconds = self.cluster.stop_seconds + 60
            self.kubectl.run("delete", _JOB, *mine, f"--timeout={seconds}s", seconds=seconds + 10)
        left = {job["metadata"]["name"]: status_of(job) for job in self._jobs()}
        for name, status in left.items():
            click.echo(f"still there, submitted from elsewhere: {name} ({status.state})")
        if still := [name for name in mine if name in left]:
            raise click.ClickException(f"still there: {', '.join(still)}")

    def _kubectl_of(self, submission: Submission) -> Kubectl:
        """With the context of when it was submitted."""
        handle = submission.handle
        context = handle.get("context", self.cluster.context)
        return Kubectl(context, handle.get("namespace", self.cluster.namespace))

    def _jobs(self) -> list[Manifest]:
        jobs: list[Manifest] = self.kubectl.read("get", _JOB, "-l", f"{MANAGED_BY}={MANAGER}")["items"]
        return jobs

    def _documents(self, submission: Submission, package: Package) -> list[Manifest]:
        check_settings(self.cluster, submission.storage)
        return manifests(self.cluster, submission, zipped(package), ray_version())

    def _look_for_operator(self) -> None:
        try:
            resources = json.loads(self.kubectl.run("get", "--raw", "/apis/ray.io/v1"))["resources"]
        except NotThere:
            resources = []
        if "rayjobs" not in [one["name"] for one in resources]:
            raise UserError(
                "the cluster has no RayJobs",
                where="kubectl",
                expected="the KubeRay operator: helm install kuberay-operator kuberay/kuberay-operator",
            )
        try:
            self.kubectl.run("explain", "rayjob.spec.rayClusterSpec.authOptions", "--api-version=ray.io/v1")
        except UserError as error:
            if "does not exist" in str(error):
                raise UserError(
                    "the cluster's KubeRay has no token authentication", expected="version 1.5 of its operator or later"
                ) from None
            raise

    def _may_create(self, what: str) -> None:
        try:
            self.kubectl.run("auth", "can-i", "create", what)
        except UserError as error:
            if not re.search(r"\bno\b", str(error).splitlines()[-1]):
                raise
            raise UserError(
                f"you may not create {what} in namespace '{self.cluster.namespace}'",
                where="namespace",
                expected="a role that may, or another namespace",
            ) from None

    def _referred(self) -> Mapping[str, tuple[str, ...]]:
        account = self.cluster.service_account
        return {
            "secret": self.cluster.secrets,
            "persistentvolumeclaim": tuple(self.cluster.volumes.values()),
            "serviceaccount": (account,) if account else (),
        }

    def _exists(self, kind: str, name: str) -> None:
        try:
            self.kubectl.run("get", kind, name, "-o", "name")
        except NotThere:
            place = {"secret": "secrets", "persistentvolumeclaim": "volumes"}.get(kind, "service_account")
            names: list[str] = []
            with suppress(UserError):
                names = [one.split("/", 1)[1] for one in self.kubectl.run("get", kind, "-o", "name").split()]
            raise UserError(
                f"there is no {kind} '{name}' in namespace '{self.cluster.namespace}'",
                where=place,
                nearest=nearest_name(name, names),
            ) from None
        except UserError as error:
            if "forbidden" not in str(error).lower():  # who may not look cannot know
                raise


def ray_version() -> str:
    """Of Ray here, which must be that of the image."""
    return importlib.metadata.version("ray")


def check_settings(cluster: KubeRayCluster, storage: str) -> None:
    """Refuse what cannot work whatever the cluster.

    Raises:
        UserError: two groups of one name, more than one head, storage that ends with the pods.
    """
    names = [group.name for group in cluster.workers]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two groups '{twice[0]}'", where="workers.name", expected="a name for each")
    if cluster.head.replicas != 1 or cluster.head.most not in (None, 1):
        raise UserError("more than one head, or none", where="head.replicas", expected="1")
    if storage and "://" not in storage and not any(_is_below(storage, path) for path in cluster.volumes):
        raise UserError(
            f"storage '{storage}' ends with the pods",
            where="storage",
            expected="a URL such as s3://BUCKET/PATH, or a directory on one of `volumes`",
        )


def _is_below(path: str, above: str) -> bool:
    return Path(path).is_absolute() and Path(path).is_relative_to(above)


def zipped(package: Package) -> bytes:
    """The package as it is sent.

    Raises:
        UserError: it is too large.
    """
    with tempfile.TemporaryDirectory() as directory:
        package.write_zip(Path(directory) / "code.zip")
        data = (Path(directory) / "code.zip").read_bytes()
    if len(data) > PART * PARTS:
        largest = sorted(package.files, key=lambda file: file.size, reverse=True)[:3]
        listed = ", ".join(f"{file.name} ({file.size / 1e6:.1f} MB)" for file in largest)
        raise UserError(
            f"the code is {len(data) / 1e6:.1f} MB as a zip (largest: {listed})",
            where="code",
            expected=f"at most {PART * PARTS / 1e6:.1f} MB in ConfigMaps: narrow code.directory or name more in "
            "code.exclude; what is large belongs into the image",
        )
    return data


def _text(documents: list[Manifest]) -> str:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # fifty times as fast, with megabytes of code
    return yaml.dump_all(documents, Dumper=dumper, sort_keys=False, width=120)


def _owned(document: Manifest, owner: Manifest) -> Manifest:
    metadata = {"name": document["metadata"]["name"], "ownerReferences": [owner]}
    return {"apiVersion": document["apiVersion"], "kind": document["kind"], "metadata": metadata}


def _pods(kubectl: Kubectl, submission: Submission) -> list[Manifest]:
    pods: list[Manifest] = kubectl.read("get", "pods", "-l", f"{SUBMISSION}={submission.id}")["items"]
    return sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))


def _submitters(kubectl: Kubectl, submission: Submission) -> list[str]:
    """The pods that hand the job over and show its log, those that have begun, the oldest first."""
    pods = [pod for pod in _pods(kubectl, submission) if _is_submitter(pod)]
    return [pod["metadata"]["name"] for pod in pods if pod.get("status", {}).get("phase") != "Pending"]


def _is_submitter(pod: Manifest) -> bool:
    return any(container["name"] == SUBMITTER for container in pod["spec"]["containers"])


def _log(kubectl: Kubectl, pod: str) -> Iterator[str]:
    """The log of a submitter's pod to its end, taken up again where the connection breaks."""
    last = ""
    until = time.monotonic() + _PATIENCE
    while True:
        since = [f"--since-time={last}"] if last else []
        try:
            phase = kubectl.read("get", "pod", pod).get("status", {}).get("phase")
            for line in kubectl.lines("logs", "-f", pod, "-c", SUBMITTER, "--timestamps", *since):
                stamp, _, text = line.partition(" ")
                if stamp > last:
                    last = stamp
                    yield text
            if phase in ("Succeeded", "Failed"):  # before: nothing more came since
                return
            until = time.monotonic() + _PATIENCE
        except NotThere:
            return
        except UserError:
            if time.monotonic() > until:
                raise
        time.sleep(_PACE)
