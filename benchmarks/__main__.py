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
from typing import Any

from benchmarks import (
    agent,
    archive,
    cold,
    demo,
    machine,
    memory,
    scale,
    serving_images,
    serving_models,
    serving_ready,
    serving_tabular,
    start,
    switch,
    traffic,
)
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
        """In the order in which they must run: servers are compared while nothing else is up,
        and memory is of one server and one version."""
        return {
            "serving-images": serving_images.measure,
            "serving-tabular": serving_tabular.measure,
            "serving-models": serving_models.measure,
            "serving-ready": serving_ready.measure,
            "archive": lambda: archive.measure(self._options.mib),
            "memory": lambda: memory.measure(self.stack),
            "start": lambda: start.measure(self.stack),
            "cold": lambda: cold.measure(self.stack),
            "switch": lambda: switch.measure(self.stack),
            "traffic": lambda: traffic.measure(
                self.stack, self._options.cycles, long=self._options.long
            ),
            "agent": agent.measure,
            "scale": lambda: scale.measure(self._options.pods),
            "demo": demo.measure,
        }


ON_REQUEST = {"agent", "demo", "scale"}


def main() -> int:
    with ExitStack() as stacks:
        names = list(Benchmarks(argparse.Namespace(), stacks).by_name)
        options = _options(names)
        wanted = options.names or [name for name in names if name not in ON_REQUEST]
        benchmarks = Benchmarks(options, stacks).by_name
        found = machine.describe()
        print(machine.text(found), flush=True)
        done: list[dict[str, Any]] = []
        try:
            for name in names:
                if name in wanted:
                    done.append(_run(name, benchmarks[name]))
        except KeyboardInterrupt:
            print("\ninterrupted: what follows was not measured", file=sys.stderr)
        finally:
            _write({"machine": found, "benchmarks": done})
    return 0 if len(done) == len(set(wanted)) and all(one["kept"] for one in done) else 1


def _write(document: dict[str, Any]) -> None:
    at = datetime.now(UTC)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{at:%Y-%m-%dT%H-%M-%SZ}.json"
    text = json.dumps({"at": at.isoformat(), **document}, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"\n{path}", flush=True)


def _run(name: str, benchmark: Callable[[], Measured]) -> dict[str, Any]:
    """Measure and print; as JSON. `load` is the machine's, before and after."""
    before, started = machine.load(), time.monotonic()
    try:
        measured = benchmark()
    except BenchmarkFailed as failed:
        print(f"\n{name}: {failed}", file=sys.stderr, flush=True)
        return {"name": name, "kept": False, "failed": str(failed)}
    took_s, load = time.monotonic() - started, [before, machine.load()]
    print(
        f"\n{measured.text}\n\n({name} took {took_s:.0f} s; load {load[0]} to {load[1]})",
        flush=True,
    )
    return measured.to_json() | {"took_s": round(took_s, 1), "load": load}


def _options(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--cycles", type=int, default=20, help="traffic: there and back again")
    parser.add_argument("--long", action="store_true", help="traffic: 100 cycles, 100,000 requests")
    parser.add_argument("--mib", type=int, default=512, help="archive: size of the weights")
    parser.add_argument("--pods", type=int, default=1000, help="scale: how many")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(names)):
        parser.error(f"no benchmark {', '.join(unknown)}; there is {', '.join(names)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
