"""MobileNetV3-small behind HTTP: JPEG of 224 × 224 in, the five best classes out.

One configuration of ours for 1, 8 and 16 clients, against TorchServe's own image_classifier and
LitServe, each with the batch size that is best for it at 16, and against the bare loop.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import serving_logged as logged
from benchmarks import serving_peers as peers
from benchmarks.figures import Figure, Measured, Table
from benchmarks.serving_contest import (
    CLIENTS,
    ROUNDS,
    SECONDS,
    WARM_UP_S,
    Contender,
    Results,
    Server,
    contest,
)
from benchmarks.serving_load import Target, ask_each
from benchmarks.stack import BenchmarkFailed, running_stack

MODEL = "mobilenet"
WORKERS = 2
# A lone client waits for nobody, and under load two share a pass: see docs/tuning.md
RECIPE: dict[str, Any] = {
    "engine": "onnx",
    "input": "image",
    "image": {"top": 5},
    "batch_size": 2,
    "max_batch_delay_ms": 0,
}
STOCK_BATCHES = (1, 8)
LITSERVE_BATCHES = (4, 8)
BARE_BATCHES = (4, 8, 16)
MANY = CLIENTS[-1]
_CHOOSING_S = 4.0
_CLOSE = 2e-4
OneOfThem = TypeVar("OneOfThem", bound=Contender)

NOTES = (
    "Ours is what `modelswitch promote` serves: the torch model as an ONNX graph, "
    f"batch_size {RECIPE['batch_size']}, max_batch_delay_ms {RECIPE['max_batch_delay_ms']}, "
    f"{WORKERS} workers. LitServe and the bare loop run the very graph of its archive, LitServe "
    "with two workers and its fast queue; TorchServe's image_classifier runs the same weights "
    "in torch, all stock but for max_batch_delay 2 ms and OMP_NUM_THREADS=1, without which its two "
    "workers are several times slower. The peers' batch sizes are those of a few "
    f"that were best at {MANY} clients. While one is asked the others are stopped. The weights "
    "are random (a fixed seed), the pictures 16 crops of scikit-learn's photographs; a ratio is "
    f"the median of {ROUNDS} rounds of {SECONDS:g} s."
)


def measure() -> Measured:
    with ExitStack() as running:
        folder = Path(
            running.enter_context(tempfile.TemporaryDirectory(prefix="modelswitch-bench-"))
        )
        bodies = logged.pictures()
        files = logged.write_pictures(folder)
        stack = running.enter_context(running_stack())
        stack.grow(1)
        logged.log_mobilenet(MODEL, stack.tracking_uri)
        archive = logged.serve(stack, MODEL, RECIPE, workers=WORKERS)
        target = Target(f"{stack.servers[0]}/predictions/{MODEL}", bodies, "image/jpeg")
        ours = Server("ModelSwitch", target)
        with zipfile.ZipFile(archive) as file:  # the others run the very graph that it holds
            graph = Path(file.extract("model.onnx", folder))

        one, two = running.enter_context(peers.bare_processes(graph, files, 2, folder))
        lone = peers.BareLoop(1, [one])
        bare = _best([peers.BareLoop(batch, [one, two]) for batch in BARE_BATCHES])
        stock = _stock(running, folder, bodies)
        lit = _litserve(running, graph, folder, bodies)
        _check_answers(ours, lit)

        ours.run(8, WARM_UP_S)
        servers: list[Contender] = [ours, stock, lit]
        results = contest([*servers, bare])
        alone = contest([lone, ours], clients=(1,))
    return _measured(results, alone, ours, stock, lit, bare, lone)


def _stock(running: ExitStack, folder: Path, bodies: tuple[bytes, ...]) -> Server:
    import torch

    net, _ = logged.mobilenet()
    weights = io.BytesIO()
    torch.save(net.state_dict(), weights)
    stock = running.enter_context(peers.stock_torchserve(folder / "stock"))
    found = peers.image_classifiers(stock, weights.getvalue(), STOCK_BATCHES, bodies)
    found[0].run(8, WARM_UP_S)
    return _best(found)


def _litserve(running: ExitStack, graph: Path, folder: Path, bodies: tuple[bytes, ...]) -> Server:
    found = []
    for batch in LITSERVE_BATCHES:
        server = running.enter_context(
            peers.litserve(graph, batch, bodies, folder / f"litserve-{batch}")
        )
        server.run(8, _CHOOSING_S)
        found.append(server)
    return _best(found)


def _best(candidates: Sequence[OneOfThem]) -> OneOfThem:
    """The one that answers most at many clients; twice in turn, the better of both counts."""
    results = contest(candidates, clients=(MANY,), rounds=2, seconds=_CHOOSING_S)
    return max(candidates, key=lambda one: results.a_second(one.name, MANY))


def _check_answers(ours: Server, lit: Server) -> None:
    """Both must say the same of every picture, or it is not the same work."""
    answers = []
    for server in (ours, lit):
        with server.awake():
            answers.append([json.loads(answer) for answer in ask_each(server.target)])
    for place, (mine, other) in enumerate(zip(*answers, strict=True)):
        pairs = zip(mine["predictions"][0], other["predictions"][0], strict=True)
        if not all(
            a["label"] == b["label"] and abs(a["score"] - b["score"]) < _CLOSE for a, b in pairs
        ):
            raise BenchmarkFailed(f"picture {place}: ours answers {mine}, LitServe {other}")


def _measured(
    results: Results,
    alone: Results,
    ours: Contender,
    stock: Contender,
    lit: Contender,
    bare: Contender,
    lone: Contender,
) -> Measured:
    mine = ours.name
    figures = (
        Figure(
            f"{MANY} clients, to image_classifier",
            results.faster(mine, stock.name, MANY),
            "×",
            at_least=2.7,
        ),
        Figure(
            f"{MANY} clients, to LitServe", results.faster(mine, lit.name, MANY), "×", at_least=1.8
        ),
        Figure(
            f"{MANY} clients, to the bare loop",
            results.faster(mine, bare.name, MANY),
            "×",
            at_least=0.83,
        ),
        Figure(
            "8 clients, to the bare loop", results.faster(mine, bare.name, 8), "×", at_least=0.79
        ),
        Figure(
            "1 client, p50 to the bare loop's one image",
            alone.longer(mine, lone.name, 1),
            "×",
            at_most=1.4,
        ),
    )
    rows = [
        (name, *(f"{results.a_second(name, count):,.0f}" for count in CLIENTS))
        for name in (mine, stock.name, lit.name)
    ]
    rows.append((bare.name, "", "", f"{results.a_second(bare.name, MANY):,.0f}"))
    rows.append((lone.name, f"{alone.a_second(lone.name, 1):,.0f}", "", ""))
    waits = [
        (name, *(f"{results.p50_ms(name, c):.1f} / {results.p95_ms(name, c):.1f}" for c in CLIENTS))
        for name in (mine, stock.name, lit.name)
    ]
    headings = tuple(f"{count} clients" if count > 1 else "1 client" for count in CLIENTS)
    return Measured(
        "serving-images",
        figures,
        (
            Table(("pictures a second", *headings), rows),
            Table(("ms, p50 / p95", *headings), waits),
        ),
        (NOTES,),
    )
