"""How long a worker takes until it is READY, against what nobody could save.

That is what TorchServe as it comes takes for a handler that does nothing, and what the model's
own imports and its load take in a bare Python that has imported torch.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

import httpx

from benchmarks import serving_images, serving_peers, serving_tabular
from benchmarks import serving_logged as logged
from benchmarks.figures import Figure, Measured, Table, spread, spread_headings
from benchmarks.stack import MODEL as DIGITS
from benchmarks.stack import PATIENCE_S, BenchmarkFailed, RunningStack, running_stack
from modelswitch.local import ports

ROUNDS = 5
MOST = 1.5
_NOOP = b"def handle(data, context):\n    return data\n"
# What runs in a bare Python, in the folder of an unpacked archive
_BARE = {
    "torch, .pt2": "torch.export.load('model.pt2').module()",
    "ONNX, pictures": (
        "import onnxruntime, PIL.Image; "
        "onnxruntime.InferenceSession('model.onnx', providers=['CPUExecutionProvider'])"
    ),
    "scikit-learn": (
        "import skops.io; skops.io.load('model.skops', "
        "trusted=skops.io.get_untrusted_types(file='model.skops'))"
    ),
}
_TIMED = """
import torch, time
started = time.perf_counter()
{}
print(time.perf_counter() - started)
"""


def measure() -> Measured:
    with ExitStack() as running:
        folder = Path(
            running.enter_context(tempfile.TemporaryDirectory(prefix="modelswitch-bench-"))
        )
        stock = running.enter_context(serving_peers.stock_torchserve(folder / "stock"))
        serving_peers.write_archive(
            stock.store / "noop.mar", "noop", {"handler": "noop.py"}, {"noop.py": _NOOP}
        )
        stack = running.enter_context(running_stack())
        archives = _archives(stack)
        # The first server's inference port is the base of them all
        base = httpx.URL(stack.servers[0]).port or 0
        manage = ports.server_ports(base, 0).management_url
        asked: dict[str, Callable[[], float]] = {
            "TorchServe, no-op": partial(_ready_s, stock.management_url, "noop.mar")
        }
        for name, archive in archives.items():
            unpacked = folder / archive.stem
            with zipfile.ZipFile(archive) as file:
                file.extractall(unpacked)
            asked[f"{name}: READY"] = partial(_ready_s, manage, archive.name)
            asked[f"{name}: bare"] = partial(_bare_s, _BARE[name], unpacked)
        times: dict[str, list[float]] = {what: [] for what in asked}
        for number in range(ROUNDS + 1):
            for what, ask in asked.items():
                seconds = ask()
                if number:  # the first warms up the disk's cache
                    times[what].append(seconds)
    noop = median(times["TorchServe, no-op"])
    figures = tuple(
        Figure(
            f"{name}: READY",
            median(times[f"{name}: READY"]),
            "s",
            at_most=round(noop + MOST * median(times[f"{name}: bare"]), 2),
        )
        for name in archives
    )
    rows = [spread(what, values, digits=2) for what, values in times.items()]
    return Measured("serving-ready", figures, (Table(spread_headings("seconds"), rows),))


def _archives(stack: RunningStack) -> dict[str, Path]:
    """One of each kind, in the model store of the server that has loaded it."""
    stack.grow(1)
    stack.train()
    logged.log_mobilenet(serving_images.MODEL, stack.tracking_uri)
    logged.log_table(serving_tabular.MODEL, stack.tracking_uri)
    found = [
        logged.serve(stack, DIGITS),
        logged.serve(stack, serving_images.MODEL, serving_images.RECIPE),
        logged.serve(stack, serving_tabular.MODEL),
    ]
    return dict(zip(_BARE, found, strict=True))


def _ready_s(management_url: str, archive: str) -> float:
    """Registered under a name of its own with one worker until it is READY; then removed."""
    started = time.perf_counter()
    serving_peers.register(management_url, archive, "a-ready-one", initial_workers=1)
    seconds = time.perf_counter() - started
    (version,) = httpx.get(f"{management_url}/models/a-ready-one", timeout=PATIENCE_S).json()
    httpx.delete(
        f"{management_url}/models/a-ready-one/{version['modelVersion']}", timeout=PATIENCE_S
    ).raise_for_status()
    return seconds


def _bare_s(what: str, folder: Path) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _TIMED.format(what)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchmarkFailed(f"{what} ended {done.returncode}: {done.stderr[-2000:]}")
    return float(done.stdout)
