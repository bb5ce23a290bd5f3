"""Memory of the whole stack with one torch model served, by process.

PSS: pages that several processes share are counted once, in equal parts (Linux,
/proc/PID/smaps_rollup).
"""

from __future__ import annotations

import json
from pathlib import Path

import psutil

from benchmarks.figures import Figure, Measured, Table
from benchmarks.stack import BenchmarkFailed, RunningStack

LIMIT_MIB = 2048.0


def measure(stack: RunningStack) -> Measured:
    stack.grow(1)
    if not stack.loaded():
        stack.promote(stack.train())
    stack.wait_alone()
    loaded = stack.loaded()
    if len(stack.servers) != 1 or len(loaded) != 1:
        raise BenchmarkFailed("this one is of one server and one version: run it by itself")
    members = json.loads((stack.state / "stack.json").read_text(encoding="utf-8"))["members"]
    rows, total = [], 0.0
    for name, member in members.items():
        for place, process in enumerate(_tree(member["pid"])):
            pss, rss = mib(process)
            total += pss
            what = name if place == 0 else f"  {_what(process)}"
            rows.append((what, str(process.pid), f"{pss:.0f}", f"{rss:.0f}"))
    figure = Figure("whole stack, one model, PSS", total, "MiB", at_most=LIMIT_MIB)
    return Measured("memory", (figure,), (Table(("process", "pid", "PSS MiB", "RSS MiB"), rows),))


def _tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def mib(process: psutil.Process) -> tuple[float, float]:
    """PSS and RSS."""
    path = Path(f"/proc/{process.pid}/smaps_rollup")
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise BenchmarkFailed(
            f"{path} cannot be read ({error}): PSS is told by Linux only"
        ) from error
    found = {line.split()[0]: int(line.split()[1]) / 1024 for line in lines[1:]}
    return found["Pss:"], found["Rss:"]


def _what(process: psutil.Process) -> str:
    """The program and what it runs, without paths and options."""
    words = [Path(word).name for word in process.cmdline() if not word.startswith("-")]
    return " ".join(words[:2])[:40] or process.name()
