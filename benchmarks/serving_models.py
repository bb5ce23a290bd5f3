"""Eight models on one server, one of them hammered: what the others' callers notice.

The measure is a plain burner that takes as much of the CPU as the hammering did: beyond that,
nothing that the models share may cost the others anything.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from statistics import median
from typing import Any

import psutil

from benchmarks import serving_logged as logged
from benchmarks.figures import Figure, Measured, Table, percentile, spread, spread_headings
from benchmarks.serving_contest import WARM_UP_S
from benchmarks.serving_load import Target, load, steady
from benchmarks.stack import BenchmarkFailed, RunningStack, running_stack

MODELS = 8
HAMMERS = 8
ROUNDS = 6
SECONDS = 5.0
# Of the others together: enough to tell a p95, far from what keeps the machine busy
A_SECOND = 40.0
_PERIOD_S = 0.01
_SPAWN = multiprocessing.get_context("spawn")
ALONE, HAMMERED, BURNT = "nobody else", "one model hammered", "a burner instead"


def measure() -> Measured:
    with running_stack() as stack:
        stack.grow(1)
        targets = [_served(stack, f"tumours-{number}") for number in range(MODELS)]
        members = json.loads((stack.state / "stack.json").read_text(encoding="utf-8"))["members"]
        server = psutil.Process(members["torchserve-a"]["pid"])
        hammered, others = targets[0], targets[1:]
        load(hammered, HAMMERS, WARM_UP_S)
        steady(others, A_SECOND, SECONDS)
        share = _share(server, hammered, others)
        times: dict[str, list[float]] = {ALONE: [], HAMMERED: [], BURNT: []}
        burnt: list[float] = []
        for _ in range(ROUNDS):
            times[ALONE] += steady(others, A_SECOND, SECONDS).times_ms
            with _hammering(hammered):
                times[HAMMERED] += steady(others, A_SECOND, SECONDS).times_ms
            with _burning(share) as burners:
                began = time.perf_counter(), sum(map(_cpu_s, burners))
                times[BURNT] += steady(others, A_SECOND, SECONDS).times_ms
                spent = sum(map(_cpu_s, burners)) - began[1]
                burnt.append(spent / (time.perf_counter() - began[0]))
    ratio = percentile(times[HAMMERED], 0.95) / percentile(times[BURNT], 0.95)
    rows = [spread(what, values, digits=2) for what, values in times.items()]
    return Measured(
        "serving-models",
        (Figure("the others' p95, hammered to burnt", ratio, "×", at_most=1.5),),
        (Table(spread_headings(f"ms, of {MODELS - 1} models, beside"), rows),),
        (
            f"{MODELS} scikit-learn models with a worker each; one asked by {HAMMERS} clients as "
            f"fast as it answers, which took {share:.2f} cores with the clients' own share (the "
            f"burner: {median(burnt):.2f}); the others {A_SECOND:g} times a second in turn. "
            f"{ROUNDS} rounds of {SECONDS:g} s.",
        ),
    )


def _served(stack: RunningStack, name: str) -> Target:
    request: dict[str, Any] = logged.log_table(name, stack.tracking_uri)
    logged.serve(stack, name)
    url = f"{stack.servers[0]}/predictions/{name}"
    return Target(url, (json.dumps(request).encode(),), "application/json")


def _share(server: psutil.Process, hammered: Target, others: Sequence[Target]) -> float:
    """How many cores the hammering takes, beside the others' steady load."""
    began = time.perf_counter(), _cpu_s(server)
    steady(others, A_SECOND, SECONDS)
    middle = time.perf_counter(), _cpu_s(server)
    with _hammering(hammered) as client:
        clients_began = _cpu_s(client)
        again = time.perf_counter(), _cpu_s(server)
        steady(others, A_SECOND, SECONDS)
        ended = time.perf_counter(), _cpu_s(server)
        clients = _cpu_s(client) - clients_began
    quiet = (middle[1] - began[1]) / (middle[0] - began[0])
    busy = (ended[1] - again[1] + clients) / (ended[0] - again[0])
    return max(0.0, busy - quiet)


def _cpu_s(process: psutil.Process) -> float:
    """Of it and its children, in seconds since they began."""
    return sum(
        each.cpu_times().user + each.cpu_times().system
        for each in (process, *process.children(recursive=True))
    )


@contextmanager
def _hammering(target: Target) -> Iterator[psutil.Process]:
    """Clients in a process of their own, until the block ends."""
    begun = _SPAWN.Event()
    client = _SPAWN.Process(target=_hammer, args=(target, begun), daemon=True)
    with _running([client]):
        if not begun.wait(60):
            raise BenchmarkFailed("the process that hammers did not begin")
        yield psutil.Process(client.pid)


def _hammer(target: Target, begun: Any) -> None:
    begun.set()
    load(target, HAMMERS, math.inf)


@contextmanager
def _burning(cores: float) -> Iterator[list[psutil.Process]]:
    """So many cores' time, in as few processes as that takes, with pauses of 10 ms."""
    count = max(1, math.ceil(cores))
    begun = [_SPAWN.Event() for _ in range(count)]
    burners = [
        _SPAWN.Process(target=_burn, args=(cores / count, event), daemon=True) for event in begun
    ]
    with _running(burners):
        if not all(event.wait(60) for event in begun):
            raise BenchmarkFailed("the process that burns did not begin")
        yield [psutil.Process(burner.pid) for burner in burners]


def _burn(share: float, begun: Any) -> None:
    begun.set()
    started, spent = time.perf_counter(), time.thread_time()
    while True:
        # What others took of its share is made up for, as the hammered model's queue would
        while time.thread_time() - spent < share * (time.perf_counter() - started):
            sum(range(1000))  # or most of it would be asking for the time
        time.sleep(_PERIOD_S)


@contextmanager
def _running(processes: Sequence[BaseProcess]) -> Iterator[None]:
    for process in processes:
        process.start()
    try:
        yield
        if not all(process.is_alive() for process in processes):
            raise BenchmarkFailed("what kept the machine busy has ended early")
    finally:
        for process in processes:
            process.terminate()
            process.join()
