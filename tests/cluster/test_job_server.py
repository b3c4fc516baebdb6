"""What a job server's client says where no job server is: one line, soon, with the fix."""

import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata

import pytest
import requests

from nml_ray.cluster import job_server
from nml_ray.cluster.address import Cluster
from nml_ray.cluster.config import AddressCluster
from nml_ray.cluster.job_server import JobServer, Unreachable
from nml_ray.config.errors import UserError


@contextmanager
def answering(
    status: int, text: str, headers: dict[str, str] | None = None, context: ssl.SSLContext | None = None
) -> Iterator[str]:
    """The address of a server that answers every GET so, by TLS where there is a context."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def saying(words: bytes) -> Iterator[int]:
    """The port of something that says a word to whoever connects, and nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held = []

        def accept() -> None:
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                held.append(connection)
                connection.sendall(words)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


def refusal(address: str, **options: bool) -> str:
    with pytest.raises(UserError) as caught:
        JobServer(address, **options).job("demo-1")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{address.rstrip('/')}: ")
    return message


def test_nothing_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "nothing listens there" in refusal(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    ("status", "text"), [(200, "<html>hello</html>"), (404, "no"), (200, "[]"), (200, "{}"), (500, "")]
)
def test_another_server(status, text):
    with answering(status, text) as address:
        assert f"no Ray dashboard (status {status}" in refusal(address)


def test_a_page_to_log_in():
    with answering(302, "", {"Location": "https://login.example.org/"}) as address:
        assert "sends elsewhere" in refusal(address)


def test_another_version_of_ray():
    with answering(200, '{"authentication_mode": "disabled", "ray_version": "2.9.3"}') as address:
        assert "the cluster runs Ray 2.9.3, this machine has" in refusal(address)


def test_another_version_of_python_is_told_where_the_server_tells():
    same = {"authentication_mode": "disabled", "ray_version": metadata.version("ray")}
    for told, found in (({"data": {"pythonVersion": "3.99.1"}}, "3.99.1"), ({"data": {}}, ""), ({}, "")):
        with answering(200, json.dumps({**same, **told})) as address:
            assert JobServer(address).python() == found
            lines = Cluster(AddressCluster(kind="address", address=address, python="/bin/python3")).check()
            other = [line for line in lines if line.startswith("the cluster runs Python 3.99.1, this machine")]
            assert len(other) == bool(found)


def test_no_http():
    with saying(b"SSH-2.0-OpenSSH_9.2\r\n") as port:
        assert "speaks no HTTP" in refusal(f"http://127.0.0.1:{port}")


def test_a_connection_that_breaks_within_the_headers_may_pass(monkeypatch):
    with answering(200, "") as address:
        server = JobServer(address)
        monkeypatch.setattr(server, "_greet", lambda: setattr(server, "_session", requests.Session()))
        with pytest.raises(Unreachable, match="breaks the connection off within an answer"):
            server.job("demo-1")


def test_silence(monkeypatch):
    monkeypatch.setattr(job_server, "ANSWER", 0.3)
    with saying(b"") as port:
        assert "does not answer within" in refusal(f"http://127.0.0.1:{port}")


def test_a_server_that_dribbles_its_answer(monkeypatch):
    monkeypatch.setattr(job_server, "ANSWER", 0.3)
    with saying(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{") as port:
        assert "does not answer within" in refusal(f"http://127.0.0.1:{port}")


def test_tls_where_there_is_none():
    with answering(200, "{}") as address:
        assert "speaks no TLS" in refusal(address.replace("http://", "https://"))


def test_a_name_that_nobody_has():
    message = refusal("http://head.invalid:8265")
    assert "cannot be resolved" in message or "does not answer" in message


def test_a_bad_token_file_is_told_before_anything_is_sent(tmp_path):
    path = tmp_path / "token"
    path.write_text("0123456789abcdef")
    path.chmod(0o644)
    with (
        answering(200, '{"authentication_mode": "token"}') as address,
        pytest.raises(UserError, match="open to others"),
    ):
        JobServer(address, str(path)).job("demo-1")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_that_nobody_vouches_for(tmp_path, monkeypatch):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*request, *names, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    other = '{"authentication_mode": "disabled", "ray_version": "2.9.3"}'
    with answering(200, other, context=context) as address:
        assert "the certificate is not one that this machine trusts" in refusal(address)
        assert "the cluster runs Ray 2.9.3" in refusal(address, verify=False)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert "the cluster runs Ray 2.9.3" in refusal(address)


def test_a_proxy_that_does_not_work(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert "the proxy that the environment names cannot be used" in refusal("http://head.example.org:8265")
