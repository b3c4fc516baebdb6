"""A client of Ray's job server (the dashboard) by its REST API: quick, without Ray, clear about what fails."""

import queue
import re
import threading
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from typing import Any, TypeVar
from urllib.parse import quote

import requests
import urllib3

from nml_ray.cluster.auth_token import Token, find_token
from nml_ray.config.errors import UserError

Result = TypeVar("Result")

ANSWER = 9.0  # seconds in which a server has answered, or is told to be silent
_CONNECT = 5.0
_SLOW = 120.0  # seconds without a sign while a package is taken, or the head starts its first job
_NODES = 10_000  # that are asked for
_LOG = "job-driver-{}.log"


class Unreachable(UserError):
    """No answer came; the same may be answered later."""


class JobServer:
    """A running cluster's job server; nothing is asked before the first call.

    Every method raises UserError where the server cannot be reached within ten seconds (`Unreachable`), refuses the
    token or asks for one, is no Ray dashboard, or runs another version of Ray than this machine's.
    """

    def __init__(self, address: str, token_file: str = "", verify: bool = True) -> None:
        self.address = address.rstrip("/")
        self.verify = verify
        self.token_file = token_file
        self._token: Token | None = None
        self._session: requests.Session | None = None
        if not verify:  # as the cluster file says
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def greet(self) -> str:
        """What the server says of itself, in words."""
        self._within(lambda: None)
        token = f"takes the token of {self._token.source}" if self._token else "asks for no token"
        return f"Ray {metadata.version('ray')} at {self.address}: {token}"

    def python(self) -> str:
        """The version of Python that the cluster runs; "" where the server does not tell."""
        answer = self._ask("GET", "/api/v0/cluster_metadata", missing=True)
        told = _json(answer).get("data") if answer is not None else None
        return str(told.get("pythonVersion") or "") if isinstance(told, dict) else ""

    def headers(self) -> dict[str, str]:
        """What shows the token to the server, once it has been greeted; empty where it asks for none."""
        return {"Authorization": f"Bearer {self._token.value}"} if self._token else {}

    def has_package(self, name: str) -> bool:
        """Whether a package is there; if so, it stays for some minutes."""
        return self._ask("GET", f"/api/packages/gcs/{name}", missing=True) is not None

    def put_package(self, name: str, data: bytes) -> None:
        """Send a package.

        Raises:
            UserError: it is too large for the server.
        """
        self._call("PUT", f"/api/packages/gcs/{name}", data=data, timeout=(_CONNECT, _SLOW))

    def submit(self, request: Mapping[str, Any]) -> None:
        """Have a job run.

        Args:
            request: entrypoint, submission_id, runtime_env, metadata; see Ray's job API.

        Raises:
            UserError: the id is taken, or the request is refused.
        """
        try:
            self._call("POST", "/api/jobs/", json=dict(request), timeout=(_CONNECT, _SLOW))
        except Unreachable:  # the answer was lost, or the question
            job = self.job(str(request["submission_id"]))
            if job is None or job["entrypoint"] != request["entrypoint"]:
                raise

    def job(self, id: str) -> dict[str, Any] | None:
        """What the server knows of a job: status, message, driver_exit_code, driver_node_id ...; None if nothing."""
        answer = self._ask("GET", f"/api/jobs/{quote(id, safe='')}", missing=True)
        return None if answer is None else self._data(answer)

    def nodes(self) -> list[dict[str, float]]:
        """What each node that is alive has in all, by Ray's names.

        Raises:
            UserError: also where the server does not tell it.
        """
        answer = self._ask("GET", f"/api/v0/nodes?limit={_NODES}")
        assert answer is not None
        try:
            listed = self._data(answer)["data"]["result"]["result"]
            return [dict(one["resources_total"]) for one in listed if one["state"] == "ALIVE"]
        except (KeyError, TypeError):
            raise UserError(
                "the server does not say what its nodes have", where=self.address, expected="Ray's state API there"
            ) from None

    def stop(self, id: str) -> bool:
        """Have a job stopped; whether the server knows it."""
        return self._ask("POST", f"/api/jobs/{quote(id, safe='')}/stop", missing=True) is not None

    def log(self, job: Mapping[str, Any]) -> bytes:
        """All that a job's driver has said so far; `job` is what `job` gave, and the driver has been started."""
        where = {"node_id": job["driver_node_id"], "filename": _LOG.format(job["submission_id"])}
        query = {**where, "lines": "-1", "timeout": "120"}
        answer = self._call("GET", "/api/v0/logs/file", params=query, timeout=(_CONNECT, _SLOW), missing=True)
        return b"" if answer is None else answer.content

    def _ask(self, method: str, path: str, missing: bool = False) -> requests.Response | None:
        """A small request and its answer, all within ten seconds."""
        return self._within(partial(self._call, method, path, timeout=(_CONNECT, ANSWER), missing=missing))

    def _within(self, work: Callable[[], Result]) -> Result:
        """Greet the server if need be and do some work, giving up after `ANSWER` seconds; names are resolved without
        any limit of time, and a server can send its answer byte by byte."""
        box: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def call() -> None:
            try:
                self._greet()
                box.put((work(), None))
            except BaseException as error:
                box.put((None, error))

        threading.Thread(target=call, name="ask", daemon=True).start()
        try:
            value, error = box.get(timeout=ANSWER)
        except queue.Empty:
            self._session = None  # the thread may still use it
            raise self._silent() from None
        if error:
            raise error
        return value

    def _greet(self) -> None:
        if self._session:
            return
        session = requests.Session()
        mode = self._send(session, "GET", "/api/authentication_mode", timeout=(_CONNECT, ANSWER))
        asks = mode.status_code == 200 and _json(mode).get("authentication_mode") != "disabled"
        self._token = find_token(self.token_file) if asks else None
        answer = self._send(session, "GET", "/api/version", timeout=(_CONNECT, ANSWER))
        self._refuse(answer)
        if not (version := _json(answer).get("ray_version")) or answer.status_code != 200:
            raise UserError(
                f"something answers that is no Ray dashboard (status {answer.status_code} for /api/version)",
                where=self.address,
                expected="the address of the dashboard, such as http://HEAD:8265",
            )
        if version != (ours := metadata.version("ray")):
            raise UserError(
                f"the cluster runs Ray {version}, this machine has {ours}",
                where=self.address,
                expected=f"a cluster with Ray {ours}",
            )
        self._session = session

    def _call(self, method: str, path: str, missing: bool = False, **options: Any) -> requests.Response | None:
        """The answer to a request; None where the answer is that there is no such thing, if that is asked for."""
        if self._session is None:
            self._within(lambda: None)
        assert self._session
        answer = self._send(self._session, method, path, **options)
        if answer.status_code == 404 and missing:
            return None
        self._refuse(answer)
        if answer.status_code != 200:
            if "already exists" in answer.text:
                raise UserError("a job with this id is there already", where=self.address, expected="a new id")
            raise UserError(
                f"the job server refuses with status {answer.status_code} ({_reason(answer.text)})",
                where=self.address,
                expected="a request that it takes; its dashboard.log on the head says more",
            )
        return answer

    def _refuse(self, answer: requests.Response) -> None:
        """Raises UserError where an answer is a refusal that has a fix."""
        if answer.status_code == 401 and self._token is None:
            raise UserError(
                "the cluster asks for a token, and there is none here",
                where=self.address,
                expected="token_file in the cluster file, RAY_AUTH_TOKEN, or ~/.ray/auth_token",
            )
        if answer.status_code in (401, 403):
            source = self._token.source if self._token else "an empty one"
            raise UserError(
                f"the cluster refuses the token ({source})", where=self.address, expected="the token of this cluster"
            )
        if answer.status_code == 413:
            raise UserError(
                "the code is too large for the job server",
                where=self.address,
                expected="100 MiB at most: leave files out with 'code.exclude' in the cluster file",
            )
        if answer.is_redirect:
            raise UserError(
                "something answers that sends elsewhere, a page to log in perhaps, and is no Ray dashboard",
                where=self.address,
                expected="the address of the dashboard itself, such as http://HEAD:8265",
            )

    def _send(self, session: requests.Session, method: str, path: str, **options: Any) -> requests.Response:
        try:
            return session.request(
                method,
                self.address + path,
                auth=self._authorize,  # also keeps .netrc out
                verify=None if self.verify else False,  # None: the environment may name authorities
                allow_redirects=False,  # a token goes nowhere else
                **options,
            )
        except requests.exceptions.RequestException as error:
            raise self._unreachable(error) from None

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(self.headers())
        return request

    def _unreachable(self, error: requests.exceptions.RequestException) -> UserError:
        text = str(error)
        if isinstance(error, requests.exceptions.ProxyError):
            found = "the proxy that the environment names cannot be used"
            return Unreachable(found, where=self.address, expected="a right HTTPS_PROXY, or the host in NO_PROXY")
        if isinstance(error, requests.exceptions.SSLError) or "SSLError" in text:
            if "CERTIFICATE_VERIFY_FAILED" in text:
                return UserError(
                    "the certificate is not one that this machine trusts",
                    where=self.address,
                    expected="REQUESTS_CA_BUNDLE=FILE with the authority's certificate, or 'verify: false'",
                )
            return UserError("speaks no TLS", where=self.address, expected="an address that begins with http://")
        if isinstance(error, requests.exceptions.InvalidURL):
            return UserError("is no address", where=self.address, expected="http://HOST:PORT")
        if isinstance(error, requests.exceptions.Timeout) or "timed out" in text:
            return self._silent()
        for words, found in _REASONS.items():
            if words in text:
                return Unreachable(found, where=self.address, expected=_REACHABLE)
        return Unreachable(f"breaks the connection off ({_reason(text)})", where=self.address, expected=_REACHABLE)

    def _silent(self) -> Unreachable:
        return Unreachable(f"does not answer within {ANSWER:.0f} seconds", where=self.address, expected=_REACHABLE)

    def _data(self, answer: requests.Response) -> dict[str, Any]:
        if data := _json(answer):
            return data
        # It was greeted as a Ray dashboard: a connection that breaks within the headers leaves a 200 without a body.
        raise Unreachable("breaks the connection off within an answer", where=self.address, expected=_REACHABLE)


_REACHABLE = (
    "a Ray dashboard that listens there and can be reached from here (behind ssh: ssh -L 8265:localhost:8265 HEAD)"
)
_REASONS = {
    "Connection refused": "nothing listens there",
    "NameResolutionError": "its name cannot be resolved",
    "Failed to resolve": "its name cannot be resolved",
    "No route to host": "there is no way to this host",
    "Network is unreachable": "there is no way to its network",
    "BadStatusLine": "what listens there speaks no HTTP",
}


def _json(answer: requests.Response) -> dict[str, Any]:
    try:
        data = answer.json()
    except requests.exceptions.JSONDecodeError:
        return {}
    return data if isinstance(data, dict) else {}


def _reason(text: str) -> str:
    """One line of an answer, of a traceback the one that names the error."""
    lines = [line.strip() for line in text.splitlines() if len(line.strip()) > 1]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (named or lines or ["no reason given"])[-1][:300]
