"""The document of Ray's cluster launcher: checked as Ray checks it and beyond, completed so that the cluster is safe.

Pure, but for the schema, which is read from the installed Ray without importing it.
"""

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from nml_ray.config.errors import UserError, nearest_name
from nml_ray.config.validate import Misplaced, show

Document = dict[str, Any]

PROVIDERS = ("aws", "gcp", "azure", "local", "vsphere", "aliyun", "external")
NEEDED: Mapping[str, tuple[str, ...]] = {
    "aws": ("region",),
    "gcp": ("project_id", "region", "availability_zone"),
    "azure": ("location", "resource_group"),
    "external": ("module",),
}
_STOPPING = ("aws", "azure", "aliyun")  # which by themselves stop machines that are to end, and keep their disks
_NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_-]{0,29}"
)  # sockets of Ray lie below a directory of this name, and have 107 characters
_IPV4 = re.compile(r"[0-9]+(\.[0-9]+){3}")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_END = 10  # seconds that Ray's processes on machines of yours have to end
_DESCENDANTS = """\
$2 == "marked" { ours[$1]; next }
{ parent[$1] = $2 }
END { do { more = 0
           for (one in parent) if (!(one in ours) && parent[one] in ours) { ours[one]; more = 1 }
      } while (more)
      for (one in ours) print one }"""
"""Of lines `PID marked` and `PID PARENT`: those marked and all that descend from them."""
_START = ("head_start_ray_commands", "worker_start_ray_commands")


@cache
def schema() -> dict[str, Any]:
    """Ray's own, of the installed version."""
    found = importlib.util.find_spec("ray")
    assert found and found.submodule_search_locations
    path = Path(found.submodule_search_locations[0]) / "autoscaler" / "ray-schema.json"
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def check(document: Mapping[str, Any]) -> None:
    """Refuse what Ray would refuse, at once or when machines are up already and cost money.

    Raises:
        Misplaced: the first mistake, with its path below the document.
    """
    for found, path, expected, nearest in _mistakes(document):
        raise Misplaced(str(UserError(found, expected=expected, nearest=nearest)), *path)


Mistake = tuple[str, tuple[str | int, ...], str, str]


def _mistakes(document: Mapping[str, Any]) -> Iterator[Mistake]:
    yield from _against_schema(document)
    if not _NAME.fullmatch(name := document["cluster_name"]):
        yield f"cluster_name = {show(name)}", ("cluster_name",), "30 letters, digits, - and _ at most", ""
    provider = document["provider"]
    kind = provider["type"]
    if kind == "kuberay":
        yield "provider.type = kuberay", ("provider", "type"), "a cluster file with kind: kuberay", ""
    if kind not in PROVIDERS:
        expected = "one of " + ", ".join(PROVIDERS)
        yield f"provider.type = {show(kind)}", ("provider", "type"), expected, nearest_name(kind, PROVIDERS)
    for name in NEEDED.get(kind, ()):
        if provider.get(name) in (None, ""):
            yield f"'provider.{name}' is missing", ("provider", name), "it to be given", ""
    yield from _of_machines(document) if kind == "local" else _of_node_types(document)
    if not document.get("auth", {}).get("ssh_user"):
        yield "'auth.ssh_user' is missing", ("auth", "ssh_user"), "it to be given", ""
    yield from _of_commands(document, kind)


def _against_schema(document: Mapping[str, Any]) -> Iterator[Mistake]:
    import jsonschema

    validator = jsonschema.Draft7Validator(schema())
    errors = sorted(validator.iter_errors(document), key=lambda error: list(map(str, error.absolute_path)))
    errors.sort(key=lambda error: error.validator != "additionalProperties")  # a key that is missing may be misspelt
    for error in errors:
        path = tuple(error.absolute_path)
        name = ".".join(map(str, path))
        if error.validator == "additionalProperties":
            names = list(error.schema.get("properties", ()))
            key = next(key for key in error.instance if key not in names)
            yield f"unknown key '{key}'", (*path, key), "one of " + ", ".join(names), nearest_name(key, names)
        elif error.validator == "required":
            key = next(key for key in error.validator_value if key not in error.instance)
            yield f"'{'.'.join(map(str, (*path, key)))}' is missing", (*path, key), "it to be given", ""
        elif error.validator == "type":
            yield f"{name} = {show(error.instance)}", path, f"what Ray's schema calls {error.validator_value}", ""
        else:
            yield f"{name} = {show(error.instance)}", path, f"{error.validator} {error.validator_value}", ""


def _of_node_types(document: Mapping[str, Any]) -> Iterator[Mistake]:
    if document["provider"]["type"] == "external" and "available_node_types" not in document:
        return
    if not (types := document.get("available_node_types")):
        expected = "the machines that are to be rented; Ray would choose some of its own"
        yield "'available_node_types' is missing", ("available_node_types",), expected, ""
        return
    head = document.get("head_node_type")
    if head is None:
        yield "'head_node_type' is missing", ("head_node_type",), "one of " + ", ".join(types), ""
    elif head not in types:
        nearest = nearest_name(head, types)
        yield f"head_node_type = {show(head)}", ("head_node_type",), "one of " + ", ".join(types), nearest
    least = sum(one.get("min_workers", 0) for one in types.values())
    most = document.get("max_workers", 2)  # Ray's own, for all clouds
    if least > most:
        found = f"max_workers = {most} is fewer than the {least} that min_workers ask for"
        yield found, ("max_workers",), f"{least} at least", ""
    for name, one in types.items():
        if one.get("max_workers", most) < one.get("min_workers", 0):
            path = ("available_node_types", name, "max_workers")
            yield f"{'.'.join(path)} is fewer than min_workers", path, "as many at least", ""


def _of_machines(document: Mapping[str, Any]) -> Iterator[Mistake]:
    provider = document["provider"]
    if "coordinator_address" in provider:
        expected = "head_ip and worker_ips: a coordinator hands machines out without a check of who asks"
        yield "provider.coordinator_address", ("provider", "coordinator_address"), expected, ""
    for name in ("head_ip", "worker_ips"):
        if name not in provider:
            expected = "it to be given ([] where there is only a head)" if name == "worker_ips" else "it to be given"
            yield f"'provider.{name}' is missing", ("provider", name), expected, ""
    for name in ("head_node_type", "available_node_types"):
        if document.get(name):
            yield f"'{name}' with provider local", (name,), "it to be left out: the machines are those of the lists", ""
    if provider.get("head_ip") in provider.get("worker_ips", ()):
        yield "the head is among worker_ips", ("provider", "worker_ips"), "other machines: the head works too", ""


def _of_commands(document: Mapping[str, Any], kind: str) -> Iterator[Mistake]:
    for name in _START:
        for number, command in enumerate(document.get(name, ())):
            path = (name, number)
            if kind == "local" and "ray stop" in " ".join(command.split()):
                expected = "no such command: on machines of yours it ends everybody's Ray"
                yield f"{name} with 'ray stop'", path, expected, ""
            host = _option(command, "--dashboard-host")
            if host and host not in _LOOPBACK:
                expected = "--dashboard-host=127.0.0.1: who reaches it runs code; nml-ray comes through ssh"
                yield f"{name} with --dashboard-host={host}", path, expected, ""


def _option(command: str, name: str) -> str:
    words = command.replace("=", " ").split()
    return words[words.index(name) + 1].strip("'\"") if name in words[:-1] else ""


def completed(document: Mapping[str, Any], python: str, port: int, token: Path) -> Document:
    """What `ray up` gets: the token comes to each machine as a file of its user's, Ray asks for it, and the dashboard
    listens on the head's loopback.

    Args:
        document: one that passed `check`.
        python: the interpreter on the machines.
        port: of the dashboard.
        token: the file with the token, here.
    """
    there = f"~/.nml_ray/{document['cluster_name']}.token"
    local = document["provider"]["type"] == "local"
    secure = f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={there.replace('~', '$HOME')} RAY_USAGE_STATS_ENABLED=0; "
    # Ray's launcher looks for the words `ray start` in a command that starts it
    secure += f'ray() {{ {shlex.quote(python)} -m ray.scripts.scripts "$@"; }}; '
    end = end_command(document) if local else "ray stop"
    mark = f"export {_mark(document)}; " if local else ""
    start = f"{_own(document)}; {mark}" if local else ""
    start += "ulimit -n 65536 2> /dev/null; ray start"
    scratch = f" --temp-dir={_scratch(document)}/ray" if local else ""
    head = f"--head --port=6379 --dashboard-host=127.0.0.1 --dashboard-port={port}{scratch}"
    if local and _IPV4.fullmatch(str(document["provider"]["head_ip"])):  # Ray takes the loopback without a way out
        head += f" --node-ip-address={document['provider']['head_ip']}"
    defaults = {
        _START[0]: [end, f"{start} {head} --autoscaling-config=$HOME/ray_bootstrap_config.yaml"],
        _START[1]: [end, f"{start} --address=$RAY_HEAD_IP:6379{scratch}"],
    }
    result = {"cluster_synced_files": [], **document}
    if document["provider"]["type"] in _STOPPING:
        result["provider"] = {"cache_stopped_nodes": False, **document["provider"]}
    result["file_mounts"] = {**document.get("file_mounts", {}), there: str(token)}
    for name in _START:
        given = [mark + command for command in document.get(name, ())]
        result[name] = [secure + command for command in given or defaults[name]]
    return result


def nodes_at_first(document: Mapping[str, Any]) -> int:
    """How many nodes there are to be from the start, the head included."""
    if document["provider"]["type"] == "local":
        return 1 + len(document["provider"]["worker_ips"])
    return 1 + sum(one.get("min_workers", 0) for one in document.get("available_node_types", {}).values())


def _scratch(document: Mapping[str, Any]) -> str:
    """The cluster's directory on machines of yours, for the user alone: Ray opens the one that it is given to all."""
    return f"/tmp/nml-ray-{document['cluster_name']}"


def end_command(document: Mapping[str, Any]) -> str:
    """Shell command that ends the Ray of a cluster on a machine of yours, and lists what is left of it.

    Its processes are those with a mark in their environment, and what they have started: some of Ray's write their
    title over their command line and their environment.
    """
    marked = f"grep -lsxz {shlex.quote(_mark(document))} /proc/[0-9]*/environ | cut -d/ -f3 | sed 's/$/ marked/'"
    children = f"{{ {marked}; ps -A -o pid= -o ppid=; }} | awk {shlex.quote(_DESCENDANTS)}"
    left = "left() { for one in $ours; do grep -qs . /proc/$one/cmdline && echo $one; done; }"  # no zombies
    wait = f'for second in $(seq {_END}); do [ -z "$(left)" ] && exit 0; sleep 1; done'
    tell = 'for one in $(left); do echo "$one $(tr "\\0" " " < /proc/$one/cmdline)"; done'
    return f"ours=$({children}); {left}; kill -TERM $ours 2> /dev/null; {wait}; kill -KILL $(left); sleep 1; {tell}"


def _own(document: Mapping[str, Any]) -> str:
    """Shell command that makes the cluster's directory, and refuses one that somebody else has made."""
    path = shlex.quote(_scratch(document))
    return f"mkdir -p -m 700 {path}; [ -O {path} ] || {{ echo {path} is not yours >&2; exit 1; }}; chmod 700 {path}"


def _mark(document: Mapping[str, Any]) -> str:
    return f"NML_RAY_CLUSTER={document['cluster_name']}"
