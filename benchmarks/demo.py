"""`make demo` after set-up: the whole way once, on a stack of its own. Not run by default."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

from benchmarks.figures import Figure, Measured
from benchmarks.stack import BIN, ROOT, BenchmarkFailed, environment
from tests.stack.machine import free_port_base

DEMO_S = 240.0


def measure() -> Measured:
    with tempfile.TemporaryDirectory(prefix="modelswitch-bench-") as folder:
        env = environment() | {
            "MODELSWITCH_LOCAL__STATE_DIR": folder,
            "MODELSWITCH_LOCAL__PORT_BASE": str(free_port_base()),
        }
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, ROOT / "tools" / "demo.py"],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - started
        subprocess.run([BIN / "modelswitch", "down"], env=env, cwd=folder, check=True)
        if done.returncode:
            raise BenchmarkFailed(f"the demo ended {done.returncode}: {done.stderr[-2000:]}")
    return Measured("demo", (Figure("make demo, set-up apart", seconds, "s", at_most=DEMO_S),))
