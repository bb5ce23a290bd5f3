"""`python -m tests.model`: explore the worlds, or tell what each rule is for.

Without a flag the short worlds; `--long` the large ones too, `--seconds` in all (default 400);
`--rules` drops each rule in turn and tells the story of what breaks.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time

from .checker import Checker, Found
from .rules import ALL_RULES, RULES
from .story import tell
from .worlds import LONG, SHORT, telling


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--rules", action="store_true")
    parser.add_argument("--seconds", type=float, default=400.0)
    options = parser.parse_args()
    gc.disable()  # millions of tuples and no cycle among them
    if options.rules:
        for rule, means in RULES.items():
            world, _ = telling(rule)
            print(
                f"\nWithout “{means}” ({rule}):\n{tell(Checker(world, ALL_RULES - {rule}).run())}"
            )
        return 0
    deadline = time.monotonic() + options.seconds
    worlds = [*SHORT, *(LONG if options.long else ())]
    every = []
    for left, world in zip(range(len(worlds), 0, -1), worlds, strict=True):
        # What the small worlds leave of their share goes to the large ones.
        share = (deadline - time.monotonic()) / left
        found = Checker(world).run(max_seconds=share)
        every.append(found)
        print(f"{figures(found)}  {world.name}", flush=True)
        if found.violation:
            print(tell(found))
    states, steps = sum(f.states for f in every), sum(f.transitions for f in every)
    broken = sum(f.violation is not None for f in every)
    print(f"{states:,} states, {steps:,} transitions, {len(every)} worlds, {broken} broken")
    return 1 if broken else 0


def figures(found: Found) -> str:
    seen = "all" if found.complete else "cut"
    return (
        f"{found.states:>10,} states  {found.transitions:>11,} transitions  "
        f"depth {found.depth:>3}  {seen}  {found.seconds:6.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
