"""A closed loop of clients over kept connections: each asks again as soon as it is answered.

One thread and plain sockets, because the client shares the machine with what it measures: a
request costs it some 20 µs, the same whoever answers.
"""

from __future__ import annotations

import gc
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from urllib.parse import urlsplit

from benchmarks.figures import percentile
from benchmarks.stack import BenchmarkFailed

TIMEOUT_S = 30.0
_READ_BYTES = 1 << 16
_APART_S = 0.005


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked, and what: `bodies` in turn, each client starting with another."""

    url: str
    bodies: tuple[bytes, ...]
    content_type: str

    @property
    def requests(self) -> tuple[bytes, ...]:
        """As they go over the wire."""
        parts = urlsplit(self.url)
        return tuple(
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Type: {self.content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
            for body in self.bodies
        )


@dataclass(frozen=True, slots=True)
class Slice:
    """What a few seconds of load gave; `times_ms` of each answer, in no order."""

    seconds: float
    times_ms: tuple[float, ...]

    @property
    def a_second(self) -> float:
        return len(self.times_ms) / self.seconds

    @property
    def p50_ms(self) -> float:
        return median(self.times_ms)

    @property
    def p95_ms(self) -> float:
        return percentile(self.times_ms, 0.95)


class _Client:
    """One connection, and the request that is under way on it."""

    def __init__(self, target: Target, requests: Sequence[bytes], first: int) -> None:
        parts = urlsplit(target.url)
        self._url = target.url
        self._requests = requests
        self._next = first
        self.socket = socket.create_connection(
            (parts.hostname or "", parts.port or 80), timeout=TIMEOUT_S
        )
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._found = b""
        self.began = 0.0

    def ask(self) -> None:
        self._found = b""
        self.began = time.perf_counter()
        self.socket.sendall(self._requests[self._next % len(self._requests)])
        # Who answers in two parts would wait 40 ms for the first one's acknowledgement
        if sys.platform == "linux":
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._next += 1

    def read(self) -> bytes | None:
        """The body once it is whole; raises BenchmarkFailed for anything but 200."""
        part = self.socket.recv(_READ_BYTES)
        if not part:
            raise BenchmarkFailed(f"{self._url} closed the connection")
        self._found = self._found + part if self._found else part
        head, gap, body = self._found.partition(b"\r\n\r\n")
        if not gap:
            return None
        head = head.lower()
        _, named, rest = head.partition(b"\r\ncontent-length:")
        if not named:
            raise BenchmarkFailed(f"{self._url} answers without a length")
        if len(body) < int(rest.partition(b"\r\n")[0]):
            return None
        if not head.startswith(b"http/1.1 200"):
            raise BenchmarkFailed(f"{self._url} answered {self._found[:2000].decode()}")
        return body


def ask_each(target: Target) -> list[bytes]:
    """The answer to each body, asked one after the other."""
    client = _Client(target, target.requests, 0)
    answers = []
    for _ in target.bodies:
        client.ask()
        while (answer := client.read()) is None:
            pass
        answers.append(answer)
    client.socket.close()
    return answers


def load(target: Target, clients: int, seconds: float) -> Slice:
    """So many clients for so long; raises BenchmarkFailed as soon as one is not answered."""
    requests = target.requests
    times_ms: list[float] = []
    with selectors.DefaultSelector() as selector:
        open_ones: list[_Client] = []
        gc.disable()
        try:
            for place in range(clients):
                client = _Client(target, requests, place * len(requests) // clients)
                open_ones.append(client)
                selector.register(client.socket, selectors.EVENT_READ, client)
                client.ask()
                # Of several processes behind one port, the first that is idle takes all who
                # come at once
                time.sleep(_APART_S)
            started = time.perf_counter()
            while (now := time.perf_counter()) < started + seconds:
                ready = selector.select(TIMEOUT_S)
                if not ready:
                    raise BenchmarkFailed(f"{target.url} has not answered for {TIMEOUT_S:g} s")
                for key, _ in ready:
                    client = key.data
                    if client.read() is not None:
                        times_ms.append((time.perf_counter() - client.began) * 1000)
                        client.ask()
        finally:
            gc.enable()
            for client in open_ones:
                client.socket.close()
    return Slice(now - started, tuple(times_ms))


def steady(targets: Sequence[Target], a_second: float, seconds: float) -> Slice:
    """One client that asks the targets in turn, so many requests a second, one at a time."""
    clients = [_Client(target, target.requests, 0) for target in targets]
    times_ms: list[float] = []
    started = time.perf_counter()
    try:
        while (now := time.perf_counter()) < started + seconds:
            client = clients[len(times_ms) % len(clients)]
            client.ask()
            while client.read() is None:
                pass
            times_ms.append((time.perf_counter() - client.began) * 1000)
            time.sleep(max(0.0, started + len(times_ms) / a_second - time.perf_counter()))
    finally:
        for client in clients:
            client.socket.close()
    return Slice(now - started, tuple(times_ms))
