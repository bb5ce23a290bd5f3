"""`python -m benchmarks [NAMES…]`: tables on stdout, JSON in bench-results/.

Exit code 1 if a budget is not kept, or something that was to be measured did not work.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from benchmarks import archive, cold, demo, machine, memory, start, switch, traffic
from benchmarks.figures import Measured
from benchmarks.stack import BenchmarkFailed, RunningStack, running_stack

RESULTS = Path("bench-results")


class Benchmarks:
    """One stack serves all that need one: it grows from one server to three on the way."""

    def __init__(self, options: argparse.Namespace, stacks: ExitStack) -> None:
        self._options = options
        self._stacks = stacks

    @cached_property
    def stack(self) -> RunningStack:
        return self._stacks.enter_context(running_stack())

    @property
    def by_name(self) -> dict[str, Callable[[], Measured]]:
        """In the order in which they must run: memory is of one server and one version."""
        return {
            "archive": lambda: archive.measure(self._options.mib),
            "memory": lambda: memory.measure(self.stack),
            "start": lambda: start.measure(self.stack),
            "cold": lambda: cold.measure(self.stack),
            "switch": lambda: switch.measure(self.stack),
            "traffic": lambda: traffic.measure(self.stack, long=self._options.long),
            "demo": demo.measure,
        }


ON_REQUEST = {"demo"}


def main() -> int:
    with ExitStack() as stacks:
        names = list(Benchmarks(argparse.Namespace(), stacks).by_name)
        options = _options(names)
        wanted = options.names or [name for name in names if name not in ON_REQUEST]
        benchmarks = Benchmarks(options, stacks).by_name
        found = machine.describe()
        print(machine.text(found), flush=True)
        done: list[object] = []
        is_kept = True
        for name in names:
            if name in wanted:
                is_kept &= _run(name, benchmarks[name], done)
    document = {
        "at": datetime.now(UTC).isoformat(),
        "machine": found | {"load_after": machine.load()},
        "benchmarks": done,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}.json"
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\n{path}")
    return 0 if is_kept else 1


def _run(name: str, benchmark: Callable[[], Measured], done: list[object]) -> bool:
    started = time.monotonic()
    try:
        measured = benchmark()
    except BenchmarkFailed as failed:
        print(f"\n{name}: {failed}", file=sys.stderr, flush=True)
        done.append({"name": name, "kept": False, "failed": str(failed)})
        return False
    took_s = time.monotonic() - started
    print(f"\n{measured.text}\n\n({name} took {took_s:.0f} s; load {machine.load()})", flush=True)
    done.append(measured.to_json() | {"took_s": round(took_s, 1), "load": machine.load()})
    return measured.is_kept


def _options(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--long", action="store_true", help="traffic: 100 cycles, 100,000 requests")
    parser.add_argument("--mib", type=int, default=512, help="archive: size of the weights")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(names)):
        parser.error(f"no benchmark {', '.join(unknown)}; there is {', '.join(names)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
