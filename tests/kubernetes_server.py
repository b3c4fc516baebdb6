"""A server that speaks as much of Kubernetes as kubectl needs for RayJobs; KubeRay's operator is not behind it."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

KINDS = {
    "configmaps": ("ConfigMap", "v1"),
    "pods": ("Pod", "v1"),
    "secrets": ("Secret", "v1"),
    "serviceaccounts": ("ServiceAccount", "v1"),
    "persistentvolumeclaims": ("PersistentVolumeClaim", "v1"),
    "rayjobs": ("RayJob", "ray.io/v1"),
}
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
OBJECT = re.compile(r"/(?:api|apis/ray\.io)/v1/namespaces/([^/]+)/([a-z]+)(?:/([^/]+))?(?:/(log))?$")


class Kubernetes:
    """What the server holds and is told to do.

    Attributes:
        objects: by plural name and name.
        logs: lines of each pod, by its name; a list of several is one answer after the other.
        operator: whether RayJobs are known, and whether they take a token.
        refuse: an HTTP status for every request below /api, or for those of a method with a part of a path.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.logs: dict[str, list[list[str]]] = {}
        self.operator, self.token_auth, self.allowed = True, True, True
        self.refuse: dict[tuple[str, str], int] = {}
        self.requests: list[tuple[str, str]] = []

    def add(self, plural: str, name: str, **fields: Any) -> dict[str, Any]:
        kind, version = KINDS[plural]
        metadata = {"name": name, "namespace": "lab", "uid": f"uid-{name}"} | fields.pop("metadata", {})
        found = {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}
        self.objects[plural, name] = found
        return found


def resources(version: str) -> dict[str, Any]:
    names = [
        {"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": VERBS}
        for plural, (kind, own) in KINDS.items()
        if own == version
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": names}


def openapi(version: str, token_auth: bool) -> dict[str, Any]:
    """What `kubectl explain` and its check of fields read."""
    group, _, number = version.rpartition("/")
    schemas, paths = {}, {}
    text = {"type": "string"}
    options = {"authOptions": {"type": "object", "properties": {"mode": text}}} if token_auth else {}
    cluster = {"type": "object", "properties": {"rayVersion": text, **options}}
    for plural, (kind, own) in KINDS.items():
        if own == version:
            named = [{"group": group, "version": number, "kind": kind}]
            spec = {"type": "object", "properties": {"rayClusterSpec": cluster}}
            schemas[f"x.{kind}"] = {
                "type": "object",
                "properties": {"spec": spec},
                "x-kubernetes-group-version-kind": named,
            }
            parameters = [{"name": "fieldValidation", "in": "query", "schema": text}]
            base = f"/apis/{version}" if group else f"/api/{version}"
            action = {"x-kubernetes-group-version-kind": named[0], "parameters": parameters}
            operation = {**action, "x-kubernetes-action": "patch", "responses": {}}
            paths[f"{base}/namespaces/{{namespace}}/{plural}/{{name}}"] = {"patch": operation}
    return {
        "openapi": "3.0.0",
        "info": {"title": "", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}


class Handler(BaseHTTPRequestHandler):
    state: Kubernetes

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, data: Any, code: int = 200, content: str = "application/json") -> None:
        body = data.encode() if isinstance(data, str) else json.dumps(data).encode()
        self.send_response(code)
        self.send_header("Content-Type", content)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def fail(self, code: int, reason: str, message: str) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code}
        self.answer({**status, "reason": reason, "message": message}, code)

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.state.requests.append((self.command, self.path))
        for (method, part), code in self.state.refuse.items():
            if self.command == method and part in url.path:
                reason = {401: "Unauthorized", 403: "Forbidden"}.get(code, "InternalError")
                message = "Unauthorized" if code == 401 else f'User "me" cannot {method.lower()} this: {reason.lower()}'
                return self.fail(code, reason, message)
        if match := OBJECT.match(url.path):
            return self.on_object(match, parse_qs(url.query), body)
        return self.on_discovery(url.path)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any

    def on_discovery(self, path: str) -> None:
        versions = ["v1", *(["ray.io/v1"] if self.state.operator else [])]
        match path.strip("/").split("/"):
            case ["version"]:
                self.answer({"major": "1", "minor": "32", "gitVersion": "v1.32.0"})
            case ["api"]:
                self.answer({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
            case ["apis"]:
                one = {"groupVersion": "ray.io/v1", "version": "v1"}
                group = {"name": "ray.io", "versions": [one], "preferredVersion": one}
                groups = [group] if self.state.operator else []
                self.answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
            case ["openapi", "v3"]:
                bases = {f"apis/{v}" if "/" in v else f"api/{v}" for v in versions}
                self.answer({"paths": {base: {"serverRelativeURL": f"/openapi/v3/{base}"} for base in bases}})
            case ["openapi", "v3", kind, *rest]:
                self.answer(openapi("/".join(rest) if kind == "apis" else rest[0], self.state.token_auth))
            case ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"]:
                review = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": {}}
                self.answer({**review, "status": {"allowed": self.state.allowed}}, 201)
            case ["api", "v1"]:
                self.answer(resources("v1"))
            case ["apis", *rest] if "/".join(rest) in versions:
                self.answer(resources("/".join(rest)))
            case _:
                self.fail(404, "NotFound", "the server could not find the requested resource")

    def on_object(self, match: re.Match[str], query: dict[str, list[str]], body: bytes) -> None:
        _, plural, name, log = match.groups()
        kind, version = KINDS[plural]
        key = (plural, name)
        if log:
            answers = self.state.logs[name]
            return self.answer("".join(answers.pop(0) if len(answers) > 1 else answers[0]), content="text/plain")
        if not name:
            wanted = dict(pair.split("=") for pair in ",".join(query.get("labelSelector", [])).split(",") if pair)
            found = [o for (p, _), o in self.state.objects.items() if p == plural]
            found = [o for o in found if wanted.items() <= o["metadata"].get("labels", {}).items()]
            if self.command == "DELETE":
                for one in found:
                    del self.state.objects[plural, one["metadata"]["name"]]
            return self.answer({"kind": f"{kind}List", "apiVersion": version, "metadata": {}, "items": found})
        if self.command == "PATCH":
            patch = yaml.safe_load(body)
            if "apply" in self.headers["Content-Type"] or key in self.state.objects:
                old = self.state.objects.get(key) or self.state.add(plural, name)
                self.state.objects[key] = merged(old, patch)
                return self.answer(self.state.objects[key])
        if key not in self.state.objects:
            return self.fail(404, "NotFound", f'{plural} "{name}" not found')
        if self.command == "DELETE":
            return self.answer(self.state.objects.pop(key))
        return self.answer(self.state.objects[key])


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubernetes]:
    """A server, and a kubectl that is logged in to it, by the context `lab`."""
    state = Kubernetes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    log_in(tmp_path, monkeypatch, f"http://127.0.0.1:{server.server_port}")
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def log_in(directory: Path, monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    """A kubectl with one context, `lab`, and no cache of before."""
    configuration = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": server}}],
        "users": [{"name": "me", "user": {"token": "token-of-mine"}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
        "current-context": "lab",
    }
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(configuration))
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setenv("KUBECACHEDIR", str(directory / "cache"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
