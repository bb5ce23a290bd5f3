"""A warm switch on three servers: forth by `promote`, and back by `rollback`."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from benchmarks.figures import Figure, Measured, Table, percentile, spread, spread_headings
from benchmarks.stack import MOST_SERVERS, Command, RunningStack, moment

CYCLES = 10
SPREAD_MS = 100.0
COMMAND_S = 2.5


@dataclass(frozen=True, slots=True)
class Switch:
    """One move. `servers_ms`: from the first to the last server's proof; `row_ms`: from the
    moment the row that moves the pointer stood (the database's clock) to the last proof."""

    verb: str
    servers_ms: float
    row_ms: float
    command_s: float


def measure(stack: RunningStack) -> Measured:
    """Ten times: stage the version that a rollback has left, promote it, roll it back."""
    stack.grow(MOST_SERVERS)
    serving, behind = stack.two_warm()
    stack.promote(behind)  # so that both have served, and history leads back from either
    new, old = behind, serving
    stack.rollback()
    commands: list[tuple[str, Command]] = []
    for _ in range(CYCLES):
        stack.wait_warm()
        if new not in stack.loaded():
            stack.promote(new, to="staging")
        stack.wait_warm()
        commands += [("promote", stack.promote(new)), ("rollback", stack.rollback())]
    assert stack.loaded()[0] == old
    rows = {row["seq"]: row for row in stack.rows()}
    return report([_switch(verb, command, rows) for verb, command in commands])


def _switch(verb: str, command: Command, rows: dict[int, dict[str, object]]) -> Switch:
    proven = command.proven_at
    assert len(proven) == MOST_SERVERS
    assert command.data["changed"]
    row = rows[command.data["event"]]
    if verb == "promote":
        row = rows[int(str(row["parent"]))]  # the settled row stands on the committed one
        assert row["kind"] == "committed"
        # Warm: nothing was prepared
        assert rows[int(str(row["parent"]))]["kind"] == "settled"
    return Switch(
        verb,
        servers_ms=(max(proven) - min(proven)) * 1000,
        row_ms=(max(proven) - moment(str(row["at"]))) * 1000,
        command_s=command.seconds,
    )


def report(switches: list[Switch]) -> Measured:
    figures, servers, rows, seconds = [], [], [], []
    for verb in ("promote", "rollback"):
        mine = [switch for switch in switches if switch.verb == verb]
        between = [switch.servers_ms for switch in mine]
        since_row = [switch.row_ms for switch in mine]
        whole = [switch.command_s for switch in mine]
        figures += [
            Figure(
                f"{verb}: first to last server, median",
                median(between),
                "ms",
                at_most=SPREAD_MS,
            ),
            Figure(f"{verb}: first to last server, p95", percentile(between, 0.95), "ms"),
            Figure(f"{verb}: row to last proof, median", median(since_row), "ms"),
            Figure(f"{verb}: whole command, median", median(whole), "s", at_most=COMMAND_S),
        ]
        servers.append(spread(f"{verb}: first to last server", between))
        rows.append(spread(f"{verb}: row to last proof", since_row))
        seconds.append(spread(f"{verb}: whole command", whole, digits=2))
    return Measured(
        "switch",
        tuple(figures),
        (
            Table(spread_headings("milliseconds"), [*servers, *rows]),
            Table(spread_headings("seconds"), seconds),
        ),
    )
