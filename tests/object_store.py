"""A real S3 server on loopback, behind a proxy that can drop, cut, delay and refuse."""

import http.client
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest

from nml_ray.storage import remote
from nml_ray.storage.location import Location, locate


@dataclass(frozen=True)
class Fault:
    """What happens to one answer.

    Attributes:
        status: given instead of the server's answer; 0 for the answer.
        keep: bytes of the body after which the connection is dropped; -1 for all.
        delay: seconds before each 64 kB of the body.
        short: drop nothing, but send an answer of `keep` bytes that says it is whole.
    """

    status: int = 0
    keep: int = -1
    delay: float = 0.0
    short: bool = False


@dataclass
class Faults:
    """Which answers are spoiled, and what was asked for. `spoil(method, path)` decides for each request."""

    spoil: Callable[[str, str], Fault | None] = lambda method, path: None
    asked: list[tuple[str, str]] = field(default_factory=list)

    def count(self, method: str, ending: str) -> int:
        """Requests of a method for paths with an ending."""
        return sum(m == method and path.partition("?")[0].endswith(ending) for m, path in self.asked)


@dataclass(frozen=True)
class Bucket:
    """An empty bucket, reached through the proxy."""

    name: str
    endpoint: str
    faults: Faults

    def at(self, path: str) -> Location:
        """A place in it."""
        return locate(f"s3://{self.name}/{path}")

    def put(self, directory: Path, path: str) -> Location:
        """Copy the files of a directory to a place."""
        for file in sorted(directory.rglob("*")):
            if file.is_file():
                remote.upload(file, self.at(path) / file.relative_to(directory).as_posix())
        self.faults.asked.clear()
        return self.at(path)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, Faults]]:
    """The proxy's address, and its faults."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    faults = Faults()
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(host, port, faults))
    proxy.daemon_threads = True
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{proxy.server_address[1]}", faults
    proxy.shutdown()
    proxy.server_close()
    server.stop()


@pytest.fixture
def bucket(s3_server: tuple[str, Faults], monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A new bucket; the environment leads to it, as a user's would."""
    endpoint, faults = s3_server
    faults.spoil = lambda method, path: None
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "not-a-key",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid4().hex[:8]}"
    make_bucket(endpoint, name)
    faults.asked.clear()
    return Bucket(name, endpoint, faults)


def make_bucket(endpoint: str, name: str) -> None:
    """Make a bucket where the environment leads to; one that is there may stay."""
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
    connection.request("PUT", f"/{name}")
    assert connection.getresponse().status == 200
    connection.close()


def _handler(host: str, port: int, faults: Faults) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def relay(self) -> None:
            faults.asked.append((self.command, self.path))
            fault = faults.spoil(self.command, self.path) or Fault()
            body = self.read_body()
            if fault.status:
                self.send_response(fault.status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            upstream = http.client.HTTPConnection(host, port, timeout=60)
            dropped = ("transfer-encoding", "expect", "content-length")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            data = answer.read()
            upstream.close()
            if fault.short:
                data = data[: fault.keep]
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.send_body(data, fault)

        def read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b""
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return body

        def send_body(self, data: bytes, fault: Fault) -> None:
            kept = data if fault.keep < 0 else data[: fault.keep]
            for start in range(0, len(kept), 1 << 16):
                time.sleep(fault.delay)
                self.wfile.write(kept[start : start + (1 << 16)])
            if len(kept) < len(data):
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = relay

        def log_message(self, *_: object) -> None:
            pass

    return Handler
