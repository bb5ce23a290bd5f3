"""A scikit-learn pipeline behind HTTP: one row of 30 named columns as JSON, the class out.

Against `mlflow models serve` with two workers, on the same version, from the same registry; both
check every request against the version's signature.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import serving_logged as logged
from benchmarks import serving_peers as peers
from benchmarks.figures import Figure, Measured, Table
from benchmarks.serving_contest import ROUNDS, SECONDS, WARM_UP_S, Server, contest
from benchmarks.serving_load import Target, ask_each
from benchmarks.stack import BenchmarkFailed, running_stack

MODEL = "tumours"
WORKERS = 2
RECIPE: dict[str, Any] = {"batch_size": 2, "max_batch_delay_ms": 0}
CLIENTS = (1, 8)

NOTES = (
    f"Ours: batch_size {RECIPE['batch_size']}, max_batch_delay_ms {RECIPE['max_batch_delay_ms']}, "
    f"{WORKERS} workers, at 1 and at 8 clients. While one is asked the other is stopped; a ratio "
    f"is the median of {ROUNDS} rounds of {SECONDS:g} s."
)


def measure() -> Measured:
    with ExitStack() as running:
        folder = Path(
            running.enter_context(tempfile.TemporaryDirectory(prefix="modelswitch-bench-"))
        )
        stack = running.enter_context(running_stack())
        stack.grow(1)
        request = logged.log_table(MODEL, stack.tracking_uri)
        logged.serve(stack, MODEL, RECIPE, workers=WORKERS)
        body = json.dumps(request).encode()
        target = Target(f"{stack.servers[0]}/predictions/{MODEL}", (body,), "application/json")
        ours = Server("ModelSwitch", target)
        theirs = running.enter_context(
            peers.mlflow_server(f"models:/{MODEL}/1", body, folder / "mlflow", stack.tracking_uri)
        )
        _check_answers(ours, theirs)
        ours.run(8, WARM_UP_S)
        theirs.run(8, SECONDS)
        results = contest([ours, theirs], clients=CLIENTS)
    figures = (
        Figure(
            "8 clients, to mlflow models serve",
            results.faster(ours.name, theirs.name, 8),
            "×",
            at_least=10,
        ),
        Figure("8 clients, p50", results.p50_ms(ours.name, 8), "ms", at_most=3),
        Figure(
            "1 client, to mlflow models serve",
            results.faster(ours.name, theirs.name, 1),
            "×",
            at_least=7,
        ),
        Figure("1 client, p50", results.p50_ms(ours.name, 1), "ms", at_most=1),
    )
    rows = [
        (
            name,
            *(f"{results.a_second(name, c):,.0f}" for c in CLIENTS),
            *(f"{results.p50_ms(name, c):.2f} / {results.p95_ms(name, c):.2f}" for c in CLIENTS),
        )
        for name in (ours.name, theirs.name)
    ]
    headings = ("one row of JSON", "1 client, a second", "8 clients", "1: ms, p50 / p95", "8")
    return Measured("serving-tabular", figures, (Table(headings, rows),), (NOTES,))


def _check_answers(ours: Server, theirs: Server) -> None:
    found = []
    for server in (ours, theirs):
        with server.awake():
            found.append([json.loads(answer) for answer in ask_each(server.target)])
    if found[0] != found[1]:
        raise BenchmarkFailed(f"ours answers {found[0]}, MLflow {found[1]}")
