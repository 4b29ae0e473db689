"""Faults on the wire, for tests of what clients do about them.

- `Faults.wrap` is the `middleware` of `hf_tasks.hub.server.running`: outermost, so it sees every request, and a fault
  strikes before or in the middle of what the Hub does.
- Connections are cut for real: uvicorn's own objects are behind `receive`, and its transport is aborted.
"""

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass
class Fault:
    """What befalls the first `times` requests of a method and a path (as the client wrote it; searched, not matched).

    It waits `delay` seconds first, then answers `status`, or cuts the connection after that many bytes of the request's
    or of the answer's body, or lets the request pass where none is given.
    """

    method: str
    path: str
    times: int = 1
    delay: float = 0.0
    status: int | None = None
    cut_upload: int | None = None
    cut_download: int | None = None


@dataclass
class Faults:
    """The faults to come, and all requests so far as (method, path). Of faults that fit, the first one strikes."""

    pending: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def add(self, method: str, path: str, **what: Any) -> None:
        """What to do is given as to `Fault`."""
        self.pending.append(Fault(method, path, **what))

    def count(self, method: str, path: str) -> int:
        """How many requests there were of a method and a path."""
        return sum(method == seen and bool(re.search(path, where)) for seen, where in self.requests)

    def wrap(self, app: ASGIApp) -> ASGIApp:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            fault = self._next(scope["method"], scope["raw_path"].decode())
            if fault is None:
                return await app(scope, receive, send)
            await asyncio.sleep(fault.delay)
            if fault.status is not None:
                return await _answer(fault.status, send)
            transport = receive.__self__.transport  # type: ignore[attr-defined]
            if fault.cut_upload is not None:
                receive = _cut_upload(receive, transport, fault.cut_upload)
            if fault.cut_download is not None:
                send = _cut_download(send, transport, fault.cut_download)
            await app(scope, receive, send)

        return answer

    def _next(self, method: str, path: str) -> Fault | None:
        self.requests.append((method, path))
        for fault in self.pending:
            if fault.times and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None


async def _answer(status: int, send: Send) -> None:
    headers = [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _cut_upload(receive: Receive, transport: asyncio.Transport, after: int) -> Receive:
    left = after

    async def cut() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left > 0:
            return message
        transport.abort()
        return {"type": "http.disconnect"}

    return cut


def _cut_download(send: Send, transport: asyncio.Transport, after: int) -> Send:
    left = after

    async def cut(message: Message) -> None:
        nonlocal left
        if transport.is_closing():
            return
        body = message.get("body", b"")
        if len(body) < left or message["type"] != "http.response.body":
            left -= len(body)
            return await send(message)
        await send({**message, "body": body[:left], "more_body": True})
        while transport.get_write_buffer_size():  # the bytes before the cut do arrive
            await asyncio.sleep(0.01)
        transport.abort()

    return cut
