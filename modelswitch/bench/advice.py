"""What follows from the points: whether the SLA holds, what to try next, whom not to trust. Pure.

By Little's law (J. D. C. Little, 1961) the requests in the workers are on average the throughput
times a request's time there: so many workers are busy, if each has one request at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from modelswitch.bench.report import SLA_PERCENTILE, Point, Sla, Subject, Suggestion

_SATURATED = 0.9  # of the machine's CPU: more workers only take turns
_NEAR_BEST = 0.95  # of the highest throughput: more clients only wait
_WAITS = 0.25  # of its time in the worker: a request that waits so long waits for a worker
_IDLE = 0.6  # of the workers: fewer would do
_CLIENT_BOUND = 0.8  # of one core: the clients run on one
_MOST_BATCH = 64
_LATENCIES_AT_LEAST = 100  # for a p99 that says something


def sla_of(ms: float | None, points: Sequence[Point]) -> Sla | None:
    """Held by a point whose 95th percentile is within it and of which no request failed."""
    if ms is None:
        return None
    held: int | None = None
    for point in points:
        if point.failed or not point.requests or point.p95_ms > ms:
            return Sla(ms, SLA_PERCENTILE, held, point.clients)
        held = point.clients
    return Sla(ms, SLA_PERCENTILE, held, None)


def best_of(points: Sequence[Point]) -> Point:
    """The fewest clients that reach nearly the highest throughput."""
    top = max(point.throughput for point in points)
    return next(point for point in points if point.throughput >= _NEAR_BEST * top)


def suggest(subject: Subject, points: Sequence[Point]) -> Suggestion:
    """Workers and batch size to try next, by the points of which nothing failed."""
    points = [point for point in points if not point.failed] or points
    best, most = best_of(points), points[-1]
    workers, batch = subject.workers, subject.batch_size
    if best.worker_ms is None or best.queue_ms is None or most.queue_ms is None:
        why = "the server's own times could not be read, so nothing is suggested"
        return Suggestion(workers, batch, (why,))
    why, workers = _workers(subject, best, most)
    if workers > subject.workers:  # one change at a time, the one without a trap first
        return Suggestion(workers, batch, (why,))
    why_batch, batch = _batch(subject, points, best, workers)
    return Suggestion(workers, batch, (why, *why_batch))


def _workers(subject: Subject, best: Point, most: Point) -> tuple[str, int]:
    workers = subject.workers
    limit = max(1, (subject.cores or workers) // (subject.threads or 1))
    if workers > limit:
        why = (
            f"{workers} workers of {subject.threads or 1} threads are more than the machine's "
            f"{subject.cores} cores: they take turns"
        )
        return why, limit
    queue_ms, worker_ms = most.queue_ms or 0.0, most.worker_ms or 0.0
    if queue_ms < _WAITS * worker_ms:
        busy = most.throughput * worker_ms / 1000
        fewer = max(1, math.ceil(busy / _IDLE))
        if subject.batch_size == 1 and fewer < workers:
            return f"at {most.clients} clients {busy:.1f} workers were busy on average", fewer
        return f"at {most.clients} clients requests hardly waited for a worker", workers
    told = (
        f"at {most.clients} clients a request waits {queue_ms:.1f} ms and is "
        f"{worker_ms:.1f} ms in the worker"
    )
    cpu = best.machine_cpu
    if cpu is None:
        return f"{told}; whether the server has CPU left is not seen from here", workers
    if cpu >= _SATURATED:
        return f"{told}; the CPU is taken ({cpu:.0%}), so more workers would not help", workers
    if workers >= limit:
        return f"{told}; there is a worker for each core already", workers
    more = min(limit, max(workers + 1, int(workers / max(cpu, 0.1))))
    return f"{told}, while {1 - cpu:.0%} of the CPU is idle", more


def _batch(
    subject: Subject, points: Sequence[Point], best: Point, workers: int
) -> tuple[list[str], int | None]:
    batch = subject.batch_size
    if batch is None:
        return [], None
    # What may be in the workers at once, at the load where the server is at its best
    fills = min(_MOST_BATCH, max(1, math.ceil(best.clients / workers)))
    waiting = points[-1]
    if batch == 1:
        if (waiting.queue_ms or 0.0) < 2 * (waiting.worker_ms or 0.0):
            return [], 1
        together = min(_MOST_BATCH, max(2, math.ceil(waiting.clients / workers)))
        return [
            f"at {waiting.clients} clients a request waits for several others: {together} may "
            "share a pass, if the model answers rows of a batch alike and faster together"
        ], together
    lone = points[0]
    found = []
    delay = subject.max_batch_delay_ms or 0
    if lone.clients < batch and delay and (lone.queue_ms or 0.0) >= 0.5 * delay:
        found.append(
            f"{lone.clients} client{'s' if lone.clients > 1 else ''} cannot fill a batch of "
            f"{batch} and wait {lone.queue_ms:.1f} ms for it: for few clients try batch_size 2 "
            f"with max_batch_delay_ms 0 (now {delay}), which costs throughput at many"
        )
    if fills < batch:
        found.append(
            f"at its best, with {best.clients} clients and {workers} "
            f"worker{'s' if workers > 1 else ''}, batches of more than {fills} never fill"
        )
        return found, fills
    return found, batch


def notes_on(subject: Subject, points: Sequence[Point]) -> list[str]:
    """What to know before believing the figures."""
    found = []
    bound = [p.clients for p in points if p.client_cores >= _CLIENT_BOUND]
    if bound:
        found.append(
            f"at {_listed(bound)} clients the clients were the bottleneck (they took "
            f"{max(p.client_cores for p in points):.0%} of a core, and have one): the server can "
            "do more than these figures say"
        )
    shared = [
        p.client_cores / subject.cores
        for p in points
        if p.machine_cpu is not None and p.machine_cpu >= _SATURATED and subject.cores
    ]
    if shared and max(shared) >= 0.1:
        found.append(
            f"the clients took up to {max(shared):.0%} of the CPU that they share with the "
            "server: from another machine it would do more"
        )
    others = sum(p.others for p in points)
    if others > 0.01 * sum(p.requests for p in points):
        found.append(f"somebody else asked this version {others} times meanwhile")
    few = [p.clients for p in points if p.requests < _LATENCIES_AT_LEAST]
    if few:
        found.append(
            f"at {_listed(few)} clients fewer than {_LATENCIES_AT_LEAST} requests were answered: "
            "their percentiles say little (--seconds)"
        )
    return found


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
