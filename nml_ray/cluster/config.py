"""The cluster file: where a job is sent. A job file is data; a cluster file is code, for its lines run as you."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator, model_validator

from nml_ray.cluster.launcher_document import check as check_launcher_document
from nml_ray.config.document import Document, load, plain
from nml_ray.config.errors import UserError, nearest_name
from nml_ray.config.override import override
from nml_ray.config.patterns import ADDRESS, KUBERNETES_NAME, MEMORY, SLURM_TIME
from nml_ray.config.settings import Count, Settings
from nml_ray.config.validate import Misplaced, validate

Memory = Annotated[str, Field(pattern=MEMORY)]
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"token|secret|password|passwd|credential|access_?key|api_?key|private_?key|(^|_)key$", re.I)
_SIGNED_IN = re.compile(r"://[^/@\s]*:[^/@\s]+@")  # a password within a URL


class CodeSettings(Settings):
    """What travels to the cluster with a job. Data never does: it lies where the cluster reads it."""

    directory: str = "."
    """Directory that is sent, and in which the job runs; a relative one starts at the directory of `nml-ray submit`.
    The package `nml_ray` itself goes along."""
    exclude: tuple[str, ...] = ()
    """Patterns of what stays behind, as in a .gitignore. `.git`, virtual environments, caches, and what .gitignore and
    .nmlignore name stay behind anyway."""
    limit: Memory = "100MiB"
    """Most that may be sent. A job server takes 100 MiB, KubeRay 11 MB as a zip, in ConfigMaps."""


class ClusterSettings(Settings):
    """What all kinds of clusters have."""

    storage: str = ""
    """Where jobs leave their artifacts and logs, a path or URL as the cluster's machines see it; the job's own
    `run.storage` when left out, which must be a URL or an absolute path then."""
    python: str = "python3"
    """The interpreter on the cluster's machines, one that has nml_ray's dependencies; a path, or a name on PATH."""
    environment: dict[str, str] = {}
    """Environment variables of the job. Secrets have no place here: the platform hands them out, or a file that only
    you can read."""
    code: CodeSettings = CodeSettings()
    """What is sent along."""
    gpu_hour_price: Annotated[float, Field(ge=0)] | None = None
    """Price of a GPU for an hour; `plan` then says what a job costs."""
    currency: str = "USD"
    """Of that price."""

    @field_validator("environment")
    @classmethod
    def _are_no_secrets(cls, environment: dict[str, str]) -> dict[str, str]:
        for name, value in environment.items():
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"'{name}' is no name of an environment variable")
            if _SECRET.search(name) or _SIGNED_IN.search(value):
                raise ValueError(f"'{name}' looks like a secret: files that are kept and shown are no place for it")
        return environment


class LocalCluster(ClusterSettings):
    """This machine: the job runs in the background, on a Ray of its own."""

    kind: Literal["local"]
    """This machine."""


class AddressCluster(ClusterSettings):
    """A cluster that is running, by its job server."""

    kind: Literal["address"]
    """A cluster that is running, by its job server."""
    address: Annotated[str, Field(pattern=ADDRESS)]
    """Of the job server (Ray's dashboard), such as http://head.example.org:8265."""
    token_file: str = ""
    """File with the cluster's token, readable by you alone; RAY_AUTH_TOKEN, or Ray's own ~/.ray/auth_token, when left
    out."""
    verify: bool = True
    """Whether the certificate of an https address is checked."""
    stop_seconds: Count = 120
    """Seconds that a job which is stopped gets: half of them to reach a checkpoint, the rest to end in order."""

    @field_validator("address", mode="before")
    @classmethod
    def _names_nobody(cls, address: Any) -> Any:
        if "@" in str(address):
            raise Misplaced(
                "address with a user's name or password, which files that are kept and shown are no place for"
            )
        return address


class LauncherCluster(ClusterSettings):
    """A cluster that Ray's own launcher brings up: AWS, GCP, Azure, machines of yours by ssh."""

    kind: Literal["launcher"]
    """A cluster that Ray's own launcher brings up, on AWS, GCP, Azure, or machines of yours by ssh."""
    ray: dict[str, Any]
    """The launcher's document, as `ray up` takes it; checked with Ray's schema."""
    dashboard_port: Annotated[int, Field(ge=1, le=65535)] = 8265
    """Port of the dashboard on the head, where it listens on loopback; reached through ssh."""
    stop_seconds: Count = 120
    """Seconds that a job which is stopped gets: half of them to reach a checkpoint, the rest to end in order."""

    @field_validator("ray")
    @classmethod
    def _is_one_of_rays(cls, ray: dict[str, Any]) -> dict[str, Any]:
        document: dict[str, Any] = plain(ray)
        check_launcher_document(document)
        return document


class SlurmCluster(ClusterSettings):
    """A Slurm cluster: the job is an allocation, in which Ray is started and ended."""

    kind: Literal["slurm"]
    """A Slurm cluster, on whose login machine you are."""
    directory: str
    """Directory on the shared file system for code, scripts and Slurm's own output, absolute; made if need be."""
    nodes: Count = 1
    """Nodes of the allocation."""
    time: Annotated[
        str,
        BeforeValidator(lambda time: str(time) if isinstance(time, int) and not isinstance(time, bool) else time),
        Field(pattern=SLURM_TIME),
        WithJsonSchema({"anyOf": [{"type": "string", "pattern": SLURM_TIME}, {"type": "integer", "minimum": 1}]}),
    ]
    """Limit of time, as sbatch takes it: minutes, HH:MM:SS, D-HH:MM:SS. A job that reaches it is queued again and goes
    on from its checkpoint, `restarts` times."""
    cpus_per_node: Count | None = None
    """CPUs of each node; all of them when left out, with `exclusive`."""
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    """GPUs of each node."""
    memory_per_node: Memory | None = None
    """Memory of each node."""
    exclusive: bool = False
    """Whether the nodes are taken whole."""
    partition: str = ""
    """Partition."""
    account: str = ""
    """Account that pays."""
    qos: str = ""
    """Quality of service."""
    options: tuple[str, ...] = ()
    """More options of sbatch, such as `--constraint=h100`; one each."""
    setup: tuple[str, ...] = ()
    """Shell lines that each node runs first, such as `module load cuda`."""
    start_minutes: Count = 10
    """Minutes that Ray may take to come up on all nodes."""
    stop_seconds: Count = 120
    """Seconds that the job gets before the limit of time, and after `stop`: half of them to reach a checkpoint, the
    rest to end in order."""
    restarts: Annotated[int, Field(ge=0)] = 10
    """Times that a job which reached its limit of time, or lost a node, is queued again."""
    port: Annotated[int, Field(ge=1024, le=65535)] | None = None
    """Port of Ray on the head node; drawn from the job's number when left out, so that jobs can share a node."""

    @field_validator("directory", "partition", "account", "qos", "options")
    @classmethod
    def _stay_in_their_line(cls, given: Any, info: ValidationInfo) -> Any:
        if not "".join(given).isprintable():
            found = "a line break or control character, which would end the line of sbatch's option"
            raise Misplaced(f"{info.field_name} with {found}")
        return given


class Node(Settings):
    """The pods of one kind."""

    name: Annotated[str, Field(pattern=KUBERNETES_NAME)] = "workers"
    """Name of the group."""
    replicas: Annotated[int, Field(ge=0)] = 1
    """How many, or how many at first."""
    most: Count | None = None
    """How many there may be when the cluster grows with the work; `replicas` when left out."""
    cpus: Annotated[float, Field(gt=0)] = 1
    """CPUs of each."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs of each."""
    memory: Memory = "4Gi"
    """Memory of each."""
    node_selector: dict[str, str] = {}
    """Labels of the machines that may run them."""
    tolerations: tuple[dict[str, Any], ...] = ()
    """Taints they tolerate, as Kubernetes writes it."""

    @field_validator("tolerations")
    @classmethod
    def _are_plain(cls, tolerations: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        return tuple(map(plain, tolerations))

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.most is not None and self.most < self.replicas:
            raise Misplaced(f"most = {self.most} is below replicas = {self.replicas}", "most")
        return self


class KubeRayCluster(ClusterSettings):
    """Kubernetes with the KubeRay operator: the job is a RayJob with a cluster of its own."""

    kind: Literal["kuberay"]
    """Kubernetes with the KubeRay operator."""
    image: str
    """Container image with Ray of this version and nml_ray's dependencies."""
    namespace: Annotated[str, Field(pattern=KUBERNETES_NAME)] = "default"
    """Namespace."""
    context: str = ""
    """Context of kubectl; its current one when left out."""
    head: Node = Node(name="head", cpus=2, memory="8Gi")
    """The head, which runs the job's driver."""
    workers: tuple[Node, ...] = ()
    """Groups of workers."""
    service_account: str = ""
    """Service account of the pods: how they get at an object store."""
    user: Annotated[int, Field(ge=0)] = 1000
    """Number of the user as which the pods' processes run; 1000 is the one of Ray's own images."""
    secrets: tuple[str, ...] = ()
    """Names of Secrets whose entries become environment variables of the pods."""
    volumes: dict[str, str] = {}
    """PersistentVolumeClaims by the path at which the pods see them."""
    keep_minutes: Annotated[int, Field(ge=0)] = 10
    """Minutes that the pods stay after the job's end."""
    most_hours: Annotated[float, Field(gt=0)] | None = None
    """Hours after which the job is ended."""
    restarts: Annotated[int, Field(ge=0)] = 3
    """Times that a job whose driver was lost is begun again, on a new cluster."""
    stop_seconds: Count = 120
    """Seconds that a job which is stopped gets: half of them to reach a checkpoint, the rest to end in order."""


AnyCluster = LocalCluster | AddressCluster | LauncherCluster | SlurmCluster | KubeRayCluster
KINDS: Mapping[str, type[AnyCluster]] = {
    "local": LocalCluster,
    "address": AddressCluster,
    "launcher": LauncherCluster,
    "slurm": SlurmCluster,
    "kuberay": KubeRayCluster,
}


def read_cluster(path: Path, assignments: tuple[str, ...] = (), name: str = "") -> tuple[AnyCluster, Document]:
    """A cluster file with its overrides, and the document it came from.

    Raises:
        UserError: see `document.load`, `override` and `validate`.
    """
    document = override(load(path, name), assignments)
    data = document.data if isinstance(document.data, Mapping) else {}
    if (kind := str(data.get("kind"))) in KINDS:
        return validate(KINDS[kind], document), document
    found = f"kind = {kind}" if "kind" in data else "'kind' is missing"
    raise UserError(
        found, where=document.where(("kind",)), expected="one of " + ", ".join(KINDS), nearest=nearest_name(kind, KINDS)
    )


def cluster_of(data: Mapping[str, Any]) -> AnyCluster:
    """The cluster that was kept as plain data, with a submission."""
    return KINDS[str(data["kind"])].model_validate(data)
