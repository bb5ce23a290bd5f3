"""Switching forth and back under load: what eight clients, who never ask twice,
get to see."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.clients import Client, Request, Truth, connect, is_close, post
from benchmarks.figures import Figure, Measured, Table, percentile
from benchmarks.stack import MODEL, MOST_SERVERS, BenchmarkFailed, RunningStack, moment

CLIENTS = 8
BODIES = 16
PAUSE_REQUESTS = 200  # answered between two commands, so that there is something to compare with
LONG_CYCLES = 100
LONG_REQUESTS = 100_000
LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Window:
    """Unix times: of the whole command, and within it from the row to the last server's proof."""

    began: float
    row: float
    proven: float
    ended: float


def measure(stack: RunningStack, cycles: int, *, long: bool = False) -> Measured:
    """A cycle is two switches: to the other version, and back again."""
    stack.grow(MOST_SERVERS)
    versions = stack.two_warm()
    bodies = _bodies()
    truths = _truths(stack, versions, bodies)
    stop = threading.Event()
    clients = [
        Client(stack.servers, f"/predictions/{MODEL}", bodies, truths, stop, first)
        for first in range(CLIENTS)
    ]
    began = time.time()
    for client in clients:
        client.start()
    try:
        windows = _switch(stack, versions, clients, LONG_CYCLES if long else cycles)
        _wait(clients, LONG_REQUESTS if long else 0)
    finally:
        stop.set()
        for client in clients:
            client.join()
    seconds = time.time() - began
    requests = [request for client in clients for request in client.requests]
    return report(requests, windows, seconds, long=long)


def _switch(
    stack: RunningStack, versions: tuple[str, str], clients: Sequence[Client], cycles: int
) -> list[Window]:
    _wait(clients, PAUSE_REQUESTS)
    serving, other = versions
    done = []
    for _ in range(cycles):
        for version in (other, serving):
            done.append(stack.promote(version))
            assert done[-1].data["changed"]
            _wait(clients, _count(clients) + PAUSE_REQUESTS)
    rows = {row["seq"]: row for row in stack.rows()}
    committed = [rows[rows[command.data["event"]]["parent"]] for command in done]
    assert all(row["kind"] == "committed" for row in committed)
    return [
        Window(command.began, moment(row["at"]), max(command.proven_at), command.ended)
        for command, row in zip(done, committed, strict=True)
    ]


def report(
    requests: Sequence[Request], windows: Sequence[Window], seconds: float, *, long: bool
) -> Measured:
    """`requests` and `windows` in any order; a request is of each window that it overlaps."""
    faults = Counter(r.fault for r in requests if r.fault)
    wrong = sum(r.wrong for r in requests)
    moving = [r for r in requests if any(_overlaps(r, w.row, w.proven) for w in windows)]
    commanded = [r for r in requests if any(_overlaps(r, w.began, w.ended) for w in windows)]
    seen = {id(r) for r in commanded}
    between = [r for r in requests if id(r) not in seen]
    groups = {
        "between commands": between,
        "while a command runs": commanded,
        "row to last proof": moving,
    }
    figures = (
        Figure("switches", len(windows), ""),
        Figure("requests", len(requests), "", at_least=LONG_REQUESTS if long else None),
        Figure("failed", sum(r.fault is not None and not r.wrong for r in requests), "", at_most=0),
        Figure("wrong", wrong, "", at_most=0),
        Figure("requests a second", len(requests) / seconds, ""),
    )
    latency = Table(
        ("milliseconds", "requests", "p50", "p95", "p99", "max"),
        [_latency(name, group) for name, group in groups.items()],
    )
    notes = tuple(f"{count} × {fault}" for fault, count in faults.most_common())
    return Measured("traffic", figures, (latency,), notes)


def _overlaps(request: Request, began: float, ended: float) -> bool:
    return request.began <= ended and request.ended >= began


def _latency(name: str, group: Sequence[Request]) -> tuple[str, ...]:
    ms = sorted(request.ms for request in group)
    points = [percentile(ms, share) for share in (0.5, 0.95, 0.99, 1.0)]
    return (name, str(len(ms)), *(f"{point:.1f}" for point in points))


def _count(clients: Sequence[Client]) -> int:
    return sum(len(client.requests) for client in clients)


def _wait(clients: Sequence[Client], count: int) -> None:
    while _count(clients) < count:
        if not all(client.is_alive() for client in clients):
            raise BenchmarkFailed("a client has ended")
        time.sleep(LOOK_S)


def _bodies() -> list[bytes]:
    """Digits that the models are asked, one a request."""
    from sklearn.datasets import load_digits

    images = load_digits().images[:BODIES]
    return [json.dumps({"inputs": [[image.tolist()]]}).encode() for image in images]


def _truths(
    stack: RunningStack, versions: Sequence[str], bodies: Sequence[bytes]
) -> dict[str, Truth]:
    """What each version must answer, asked by its label; refuses versions that answer alike."""
    slots = stack.reports()[0]["models"][MODEL]["slots"]
    connection = connect(stack.servers[0])
    truths = {}
    for version in versions:
        label = next(label for label in slots if label.startswith(f"{version}-"))
        answers, digest = [], ""
        for body in bodies:
            status, headers, answer = post(connection, f"/predictions/{MODEL}/{label}", body)
            if status != 200 or headers["X-Model-Version"] != f"{MODEL}@{version}":
                raise BenchmarkFailed(f"{MODEL} {label} answers {status} {answer[:200]!r}")
            digest = headers["X-Archive-Digest"]
            answers.append(json.loads(answer)["predictions"])
        truths[f"{MODEL}@{version}"] = Truth(digest, tuple(answers))
    connection.close()
    one, other = truths.values()
    if any(map(is_close, one.answers, other.answers)):
        raise BenchmarkFailed("the two versions answer alike, so no answer could be seen as wrong")
    return truths
