"""What a Ray dashboard without a token answers that has some nodes, and takes no job."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata


@contextmanager
def dashboard(
    nodes: Sequence[Mapping[str, float]], nodes_text: str = "", asked: list[str] | None = None
) -> Iterator[str]:
    """Its address.

    Args:
        nodes: that are alive, by Ray's names; there is a dead one too.
        nodes_text: told in their place.
        asked: gets method and path of each request.
    """
    listed = [{"state": "ALIVE", "resources_total": dict(node)} for node in nodes]
    listed.append({"state": "DEAD", "resources_total": {"CPU": 64.0}})
    answers = {
        "/api/authentication_mode": json.dumps({"authentication_mode": "disabled"}),
        "/api/version": json.dumps({"ray_version": metadata.version("ray")}),
        "/api/v0/nodes": nodes_text or json.dumps({"result": True, "data": {"result": {"result": listed}}}),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if asked is not None:
                asked.append(f"{self.command} {self.path}")
            text = answers.get(self.path.partition("?")[0])
            self.send_response(200 if text else 404)
            self.end_headers()
            self.wfile.write((text or "").encode())

        do_PUT = do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
