"""A freshly trained version into Production: built, loaded and proven, on one server and on three.

Where the time goes is told by the command's own log: effects with their milliseconds, and the
moments at which its rows stood.
"""

from __future__ import annotations

from benchmarks.figures import Figure, Measured, Table
from benchmarks.stack import MOST_SERVERS, Command, RunningStack

COLD_S = 15.0


def measure(stack: RunningStack) -> Measured:
    figures, rows = [], []
    for servers in (1, MOST_SERVERS):
        stack.grow(servers)
        command = stack.promote(stack.train())
        # Others may have let the stack grow before
        name = f"{len(stack.servers)} server{'s' if len(stack.servers) > 1 else ''}"
        figures.append(Figure(f"cold promote, {name}", command.seconds, "s", at_most=COLD_S))
        rows.append((name, *(f"{value:.2f}" for value in parts(command).values())))
        headings = ("seconds", *parts(command))
    return Measured("cold", tuple(figures), (Table(headings, rows),))


def parts(command: Command) -> dict[str, float]:
    """Seconds, adding up to the whole but for what lies between."""
    began = command.at("ledger.append", kind="prepared")
    warm = command.at("ledger.append", kind="committed")
    proven = command.at("ledger.append", kind="settled")
    built = {
        "download": command.took_s("registry.download"),
        "golden answer": command.took_s("archive.golden"),
        "write, store": command.took_s("archive.write") + command.took_s("store.put"),
    }
    return {
        "start, ask": began - command.began - sum(built.values()),
        **built,
        "load": warm - began,
        "prove": proven - warm,
        "marks": command.ended - proven,
    }
