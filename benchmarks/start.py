"""How long a user waits for what only tells: `--help`, models, diff, history."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure, Measured, Table, spread, spread_headings
from benchmarks.stack import BIN, BenchmarkFailed, RunningStack, environment

ROUNDS = 5
HELP_S = 0.3
VERBS_S = 2.5


def measure(stack: RunningStack) -> Measured:
    """Whole processes; the median of five rounds after one to warm up the disk's cache."""
    stack.grow(1)
    if not stack.loaded():
        stack.promote(stack.train())
    program = str(BIN / "modelswitch")
    commands = {
        "python -c pass": ([sys.executable, "-c", "pass"], None),
        "modelswitch --help": ([program, "--help"], HELP_S),
        **{f"modelswitch {verb}": ([program, verb], VERBS_S) for verb in VERBS},
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(ROUNDS + 1):
        for name, (argv, _) in commands.items():
            seconds = _seconds(argv, stack.folder)
            if number:
                times[name].append(seconds)
    figures = [
        Figure(name, median(times[name]), "s", at_most=budget)
        for name, (_, budget) in commands.items()
    ]
    rows = [spread(name, values, digits=2) for name, values in times.items()]
    return Measured("start", tuple(figures), (Table(spread_headings("seconds"), rows),))


VERBS = ("models", "diff", "history")


def _seconds(argv: list[str], folder: Path) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        argv, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode not in (0, 3):
        raise BenchmarkFailed(f"{' '.join(argv)} ended {done.returncode}: {done.stderr}")
    return seconds
