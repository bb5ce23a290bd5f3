"""Clients that call the default path at a steady pace, and judge every answer.

Nothing is asked twice: a connection that breaks is one failed request, and the next request
opens another.
"""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

TIMEOUT_S = 30.0
# Of each client: so many that something is always under way, and the machine is not saturated
REQUESTS_A_SECOND = 25.0
# As for golden answers
RTOL, ATOL = 1e-4, 1e-5


@dataclass(frozen=True, slots=True)
class Request:
    """Unix times. `fault`: None, or what was wrong; `wrong` if it answered and answered wrong."""

    began: float
    ended: float
    fault: str | None = None
    wrong: bool = False

    @property
    def ms(self) -> float:
        return (self.ended - self.began) * 1000


@dataclass(frozen=True, slots=True)
class Truth:
    """What a version answers each of the bodies, and the digest it names."""

    digest: str
    answers: tuple[list[Any], ...]


def is_close(one: Any, other: Any) -> bool:
    """Whether two predictions, nested lists of numbers, are equal within golden's tolerance."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_close, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=RTOL, abs_tol=ATOL)
    return False


class Headers(Protocol):
    """An answer's headers, by names of any case."""

    def get(self, name: str, default: str, /) -> str: ...


def judge(
    status: int, headers: Headers, body: bytes, place: int, truths: Mapping[str, Truth]
) -> tuple[str | None, bool]:
    """What is the matter with an answer to body `place`, and whether it is a wrong answer."""
    if status != 200:
        return f"HTTP {status}", False
    name, digest = headers.get("X-Model-Version", ""), headers.get("X-Archive-Digest", "")
    truth = truths.get(name)
    if truth is None or truth.digest != digest:
        return f"names {name or 'no version'}, archive {digest or 'none'}", True
    try:
        found = json.loads(body)["predictions"]
    except (ValueError, KeyError, TypeError):
        return "is no prediction", True
    if not is_close(found, truth.answers[place]):
        return f"is not what {name} answers", True
    return None, False


@dataclass
class Client(threading.Thread):
    """Asks the servers in turn, on one kept connection to each, until told to stop."""

    servers: Sequence[str]
    path: str
    bodies: Sequence[bytes]
    truths: Mapping[str, Truth]
    stop: threading.Event
    first: int = 0
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    # A dataclass compares by its fields; a thread is itself alone.
    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        connections = [connect(url) for url in self.servers]
        number = self.first
        started = time.monotonic()
        while not self.stop.is_set():
            place = number % len(self.bodies)
            self.requests.append(self._ask(connections[number % len(connections)], place))
            number += 1
            # One that was slow is not made up for: the pace is a limit
            due = (time.monotonic() - started) * REQUESTS_A_SECOND
            self.stop.wait((math.ceil(due) - due) / REQUESTS_A_SECOND)
        for connection in connections:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection, place: int) -> Request:
        began = time.time()
        try:
            status, headers, body = post(connection, self.path, self.bodies[place])
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return Request(began, time.time(), f"no answer: {type(error).__name__}")
        ended = time.time()
        return Request(began, ended, *judge(status, headers, body, place, self.truths))


def connect(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)


def post(
    connection: http.client.HTTPConnection, path: str, body: bytes
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()
