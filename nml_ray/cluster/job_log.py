"""The driver's log of a job, followed from its job server as it comes, whatever happens to the connection."""

import asyncio
import codecs
import io
import os
import ssl
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

from nml_ray.cluster.job_server import JobServer, Unreachable
from nml_ray.config.errors import UserError

ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
PATIENCE = 120.0  # seconds that a server may be out of reach before following is given up
_PAUSE = 1.0  # seconds between two looks, as long as the server itself waits for news
_END = "\0 the socket's end"
_SILENCE = 20.0  # seconds without news after which the job's state is looked up


def follow(server: JobServer, id: str, patience: float = PATIENCE) -> Iterator[str]:
    """The log of a job from its beginning to the job's end, in pieces of text.

    The server tells it from the beginning at every connection: what has been seen is left out.

    Raises:
        UserError: the server does not know the job, refuses, or is out of reach for longer than `patience` seconds.
    """
    seen, fruitless = 0, 0
    heard = time.monotonic()
    while True:
        try:
            job = _known(server, id)
            heard = time.monotonic()
            if job["status"] in ENDED:
                yield _text(server, job)[seen:]
                return
            if job["driver_node_id"] is None:
                time.sleep(_PAUSE)
                continue
            before = seen
            if fruitless < 2:
                for piece in _tail(server, id, seen):
                    seen += len(piece)
                    heard = time.monotonic()
                    yield piece
            else:  # what the server's own tail cannot tell, such as text that is no UTF-8
                piece = _text(server, job)[seen:]
                seen += len(piece)
                yield piece
                time.sleep(2 * _PAUSE)
            fruitless = fruitless + 1 if seen == before else 0
        except Unreachable:
            if time.monotonic() - heard > patience:
                raise
            time.sleep(_PAUSE)


def printed(server: JobServer, id: str) -> str:
    """The log of a job as far as the server has it; "" where it knows no such job, or one that has not begun."""
    job = server.job(id)
    if job is None or (job["driver_node_id"] is None and job["status"] not in ENDED):
        return ""
    return _text(server, job)


def _known(server: JobServer, id: str) -> dict[str, Any]:
    if job := server.job(id):
        return job
    raise UserError(
        f"the cluster does not know the job {id} (any more)",
        where=server.address,
        expected=f"`nml-ray logs {id}`, which reads what the job left on its storage",
    )


def _text(server: JobServer, job: Mapping[str, Any]) -> str:
    """The whole log, as the server's tail gives it; of a job that never ran, why."""
    if job["driver_node_id"] is None:
        return f"{job['message']}\n"
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
    return decoder.decode(server.log(job), final=job["status"] in ENDED)


def _tail(server: JobServer, id: str, seen: int) -> Iterator[str]:
    """What comes after the first `seen` characters, until the connection ends, or the job while nothing is heard."""
    pieces = _pieces(server, id)
    with asyncio.Runner() as runner:  # Ctrl-C leaves nothing pending
        while (piece := runner.run(_next(pieces))) is not _END:
            if piece == "":
                if _known(server, id)["status"] in ENDED:
                    return
                continue
            new, seen = piece[seen:], max(0, seen - len(piece))
            if new:
                yield new


async def _next(pieces: AsyncGenerator[str, None]) -> str:
    return await anext(pieces, _END)


async def _pieces(server: JobServer, id: str) -> AsyncGenerator[str, None]:
    """The log from its beginning as the server's socket tells it; "" for every `_SILENCE` seconds without news."""
    import aiohttp

    limits = aiohttp.ClientTimeout(total=None, connect=_SILENCE, sock_connect=_SILENCE)
    # the server never listens on this socket, so that pings are no use; the connection is closed at once for the same
    closing = aiohttp.ClientWSTimeout(ws_close=0.1)
    async with aiohttp.ClientSession(timeout=limits, trust_env=True) as session:
        try:
            socket = await session.ws_connect(
                f"{server.address}/api/jobs/{id}/logs/tail",
                headers=server.headers(),
                ssl=_context(server.verify),
                max_msg_size=0,
                timeout=closing,
            )
            while True:
                try:
                    message = await socket.receive(timeout=_SILENCE)
                except TimeoutError:
                    yield ""
                    continue
                if message.type is not aiohttp.WSMsgType.TEXT:
                    return
                yield message.data
        except (aiohttp.ClientError, OSError):
            return


def _context(verify: bool) -> ssl.SSLContext | bool:
    """As `requests` checks certificates."""
    if not verify:
        return False
    import certifi

    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or certifi.where()
    folder = os.path.isdir(bundle)
    return ssl.create_default_context(cafile=None if folder else bundle, capath=bundle if folder else None)
