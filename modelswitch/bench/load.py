"""Clients that ask without pause, each on one kept connection; as light as Python allows.

The same bytes go out every time, and of an answer only the head is read: what the clients cost
would else be taken for the server's time, above all on the server's own machine.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

from modelswitch.client.answers import Reply, error_of
from modelswitch.errors import UsageError

# Who gets no answer waits before he asks again, each time twice as long: a hundred impatient
# clients would keep TorchServe busy with refusing them.
_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_CONNECT_S = 5.0
_LOOK_S = 0.1
_TOLD_BYTES = 65_536  # of an error, to tell its kind by

OTHER_VERSION = "other_version"
TIMED_OUT = "timed_out"
CONNECTION_LOST = "connection_lost"
NOT_REACHED = "server_unreachable"


@dataclass(frozen=True, slots=True)
class Target:
    """Where to ask, the whole request as bytes, and the digest that should answer."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    request: bytes
    digest: str
    model: str
    timeout_s: float


@dataclass(slots=True)
class Tally:
    """What the clients saw. Times are of `time.perf_counter`."""

    answered: list[tuple[float, float]] = field(default_factory=list)  # began, ended
    errors: list[tuple[float, str]] = field(default_factory=list)  # ended, kind
    said: dict[str, str] = field(default_factory=dict)  # the first message of each kind

    def fails(self, kind: str, message: str) -> None:
        self.errors.append((time.perf_counter(), kind))
        self.said.setdefault(kind, message)


def target(
    url: str,
    content: bytes,
    headers: Mapping[str, str],
    *,
    digest: str,
    model: str,
    timeout_s: float,
) -> Target:
    """For one address, `http://host:port/path`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url} is no address of a server")
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    lines = [
        f"POST {parts.path} HTTP/1.1",
        f"Host: {parts.netloc}",
        *(f"{name}: {value}" for name, value in headers.items()),
        f"Content-Length: {len(content)}",
    ]
    head = "\r\n".join(lines).encode("ascii") + b"\r\n\r\n"
    port = parts.port or (443 if tls else 80)
    return Target(parts.hostname, port, tls, head + content, digest, model, timeout_s)


async def drive(asked: Target, clients: int, seconds: float) -> Tally:
    """Let so many clients ask for `seconds`; what is under way then is waited for."""
    tally = Tally()
    until = time.perf_counter() + seconds
    connections = [_Connection(asked.digest.encode()) for _ in range(clients)]
    watch = asyncio.create_task(_watch(connections, asked.timeout_s))
    try:
        await asyncio.gather(*(_client(c, asked, tally, until) for c in connections))
    finally:
        watch.cancel()
        for connection in connections:
            connection.close()
    return tally


async def _client(connection: _Connection, asked: Target, tally: Tally, until: float) -> None:
    pause_s = _PAUSE_S
    while (began := time.perf_counter()) < until:
        try:
            if connection.is_closed:
                await _open(connection, asked)
            await connection.ask(asked.request)
        except TimeoutError:
            tally.fails(TIMED_OUT, f"no answer within {asked.timeout_s:g} s")
        except ConnectionError as error:
            kind = CONNECTION_LOST if connection.was_open else NOT_REACHED
            tally.fails(kind, str(error) or type(error).__name__)
        except OSError as error:
            tally.fails(NOT_REACHED, str(error))
        else:
            if connection.status == 200 and connection.is_right:
                tally.answered.append((began, time.perf_counter()))
                pause_s = _PAUSE_S
                continue
            tally.fails(*_judge(connection, asked))
        connection.close()
        await asyncio.sleep(pause_s)
        pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)


async def _open(connection: _Connection, asked: Target) -> None:
    connection.was_open = False
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(min(_CONNECT_S, asked.timeout_s)):
        await loop.create_connection(lambda: connection, asked.host, asked.port, ssl=asked.tls)


def _judge(connection: _Connection, asked: Target) -> tuple[str, str]:
    if connection.status == 200:
        return OTHER_VERSION, "an answer named another archive, or none"
    reply = Reply(connection.status, {}, bytes(connection.told))
    error = error_of(reply, model=asked.model, correlation_id="")
    return error.code, error.message


async def _watch(connections: list[_Connection], timeout_s: float) -> None:
    """One look at all, instead of a timer for each request."""
    while True:
        await asyncio.sleep(min(_LOOK_S, timeout_s / 4))
        limit = time.perf_counter() - timeout_s
        for connection in connections:
            if connection.asked_at is not None and connection.asked_at < limit:
                connection.give_up()


class _Connection(asyncio.Protocol):
    """One connection after another for one client, and what the last answer's head said."""

    def __init__(self, digest: bytes) -> None:
        self._digest = digest
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._answer: asyncio.Future[None] | None = None
        self.asked_at: float | None = None
        self.was_open = False
        self.status = 0
        self.is_right = False
        self.told = bytearray()

    @property
    def is_closed(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    async def ask(self, request: bytes) -> None:
        """Send, and wait for the whole answer; raises ConnectionError and TimeoutError."""
        if self._transport is None:
            raise ConnectionResetError("the server closed it")
        self._answer = asyncio.get_running_loop().create_future()
        self.asked_at = time.perf_counter()
        self._transport.write(request)
        try:
            await self._answer
        finally:
            self.asked_at = None

    def give_up(self) -> None:
        self._end(TimeoutError())

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _end(self, error: Exception | None = None) -> None:
        if self._answer is None or self._answer.done():
            return
        if error is None:
            self._answer.set_result(None)
        else:
            self._answer.set_exception(error)

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        import httptools

        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self.was_open = True

    def data_received(self, data: bytes) -> None:
        import httptools

        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(ConnectionError(f"what came is no HTTP: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._end(ConnectionResetError(str(error) if error else "the server closed it"))

    # What the parser calls

    def on_message_begin(self) -> None:
        self.is_right = False
        self.told.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-archive-digest":
            self.is_right = value == self._digest

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self.status >= 400 and len(self.told) < _TOLD_BYTES:
            self.told += body

    def on_message_complete(self) -> None:
        self._end()


def errors_between(tally: Tally, began: float, ended: float) -> dict[str, int]:
    """Counted by kind, the most frequent first."""
    counted = Counter(kind for at, kind in tally.errors if began <= at < ended)
    return dict(counted.most_common())
