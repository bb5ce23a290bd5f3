"""The sweep: warm up until steady, then one number of clients after the other."""

from __future__ import annotations

import asyncio
import math
import os
import platform
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from modelswitch.bench import advice, load
from modelswitch.bench.load import Tally, Target
from modelswitch.bench.metrics import Times, read_times
from modelswitch.bench.report import Plan, Point, Report, Subject
from modelswitch.client import Client
from modelswitch.client.bodies import Body
from modelswitch.effects import correlation_id, tell
from modelswitch.errors import PredictionFailed

_SLICE_S = 1.0
_STEADY = 0.1
_SETTLE_S = 0.5  # of each point, not counted: connections are opened, queues fill
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def sweep(subject: Subject, body: Body, plan: Plan) -> Report:
    """Measure; raises what one request raises (PredictionError), before any load.

    Asks the version by its label: TorchServe counts apart only what is asked so.
    """
    _ask_once(subject, body, plan)
    path = f"/predictions/{quote(subject.model, safe='')}/{quote(subject.label, safe='')}"
    asked = load.target(
        subject.url + path,
        body.content,
        {
            "Content-Type": body.content_type,
            "Accept": "application/json",
            "X-Correlation-Id": correlation_id(),
        },
        digest=subject.digest,
        model=subject.name,
        timeout_s=plan.timeout_s,
    )
    notes = _warm_up(asked, plan)
    points = []
    for place, clients in enumerate(plan.clients):
        tell("bench.point", clients=clients, place=place + 1, points=len(plan.clients))
        point, said = _measure(subject, asked, clients, plan)
        points.append(point)
        notes += [f"{kind}: {text}" for kind, text in said.items()]
    return Report(
        subject=subject,
        plan=plan,
        points=tuple(points),
        sla=advice.sla_of(subject.sla_ms, points),
        suggestion=advice.suggest(subject, points),
        notes=tuple(dict.fromkeys([*notes, *advice.notes_on(subject, points)])),
        body_bytes=len(body.content),
        machine=_machine(),
    )


def _ask_once(subject: Subject, body: Body, plan: Plan) -> None:
    with Client(subject.url, timeout_s=plan.timeout_s) as client:
        first = client.predict(
            subject.model,
            body.content,
            content_type=body.content_type,
            version=subject.label,
            correlation_id=correlation_id(),
        )
    if first.digest != subject.digest:
        raise PredictionFailed(
            f"{subject.name} is not measured: {subject.url} answers from the archive "
            f"{first.digest or 'that it does not name'}, not from {subject.digest}",
            next="modelswitch diff",
            status=first.status,
        )


def _warm_up(asked: Target, plan: Plan) -> list[str]:
    """Slices of a second, with the most clients, until three of them are alike."""
    counts: list[int] = []
    started = time.monotonic()
    while (spent := time.monotonic() - started) < plan.warm_up_s:
        tell("bench.warm", seconds=round(spent))
        tally = asyncio.run(load.drive(asked, max(plan.clients), _SLICE_S))
        counts.append(len(tally.answered))
        last = counts[-3:]
        if len(last) == 3 and max(last) - min(last) <= _STEADY * max(last):
            return []
    if plan.warm_up_s < 3 * _SLICE_S:
        return []
    return [f"it was not steady yet after {plan.warm_up_s:g} s of warming up: repeat the run"]


def _measure(
    subject: Subject, asked: Target, clients: int, plan: Plan
) -> tuple[Point, dict[str, str]]:
    import psutil

    is_here = urlsplit(subject.url).hostname in _LOOPBACK
    before = read_times(subject.metrics_url, subject.model, subject.label)
    psutil.cpu_percent()  # counts from here
    cpu, began = time.process_time(), time.perf_counter()
    tally = asyncio.run(load.drive(asked, clients, _SETTLE_S + plan.seconds))
    wall = time.perf_counter() - began
    client_cores = (time.process_time() - cpu) / wall
    machine_cpu = psutil.cpu_percent() / 100 if is_here else None
    after = read_times(subject.metrics_url, subject.model, subject.label)
    times = after.since(before) if before and after else None
    from_ = began + _SETTLE_S
    point = point_of(
        clients, tally, (from_, from_ + plan.seconds), times, client_cores, machine_cpu
    )
    return point, tally.said


def point_of(
    clients: int,
    tally: Tally,
    window: tuple[float, float],
    times: Times | None,
    client_cores: float,
    machine_cpu: float | None,
) -> Point:
    """One point: latencies of what began in the window, throughput of what ended in it.

    The server's means are over all that the clients asked, the window's edges included.
    """
    began, ended = window
    every = [(end - start) * 1000 for start, end in tally.answered]
    ms = sorted((end - start) * 1000 for start, end in tally.answered if began <= start < ended)
    done = sum(began <= end < ended for _, end in tally.answered)
    queue_ms = worker_ms = rest_ms = None
    others = 0
    asked = len(tally.answered) + len(tally.errors)
    if times is not None and times.requests > 0 and every:
        others = max(0, round(times.requests) - asked)
        answered = len(every) + others
        queue_ms = times.queue_us / answered / 1000
        worker_ms = (times.total_us - times.queue_us) / answered / 1000
        rest_ms = max(0.0, sum(every) / len(every) - queue_ms - worker_ms)
    return Point(
        clients=clients,
        seconds=ended - began,
        requests=len(ms),
        throughput=done / (ended - began),
        mean_ms=sum(ms) / len(ms) if ms else 0.0,
        p50_ms=percentile(ms, 0.5),
        p95_ms=percentile(ms, 0.95),
        p99_ms=percentile(ms, 0.99),
        max_ms=ms[-1] if ms else 0.0,
        errors=load.errors_between(tally, began, ended),
        queue_ms=queue_ms,
        worker_ms=worker_ms,
        rest_ms=rest_ms,
        client_cores=client_cores,
        machine_cpu=machine_cpu,
        others=others,
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed; 0 for none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def _machine() -> dict[str, Any]:
    """Where the clients ran."""
    return {
        "cores": os.cpu_count(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }
