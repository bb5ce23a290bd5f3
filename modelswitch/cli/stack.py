"""Verbs on the stack and the servers: up, down, status."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import rich_click as click

from modelswitch.cli.output import Result, Table, local_time, say, utc_time
from modelswitch.cli.session import Session
from modelswitch.cli.verbs import Verb

if TYPE_CHECKING:
    from modelswitch.local.addresses import Addresses
    from modelswitch.local.status import StackStatus
    from modelswitch.reports import Report

PANEL = "Stack"


@click.command("up", cls=Verb, panel=PANEL)
@click.option("--servers", type=click.IntRange(1, 16), help="How many TorchServes.")
@click.option("--port-base", type=int, help="The first server's port; others follow from it.")
@click.option("--foreground", is_flag=True, help="Stay, and stop all on Ctrl-C.")
@click.pass_obj
def up(session: Session, servers: int | None, port_base: int | None, foreground: bool) -> Result:
    """Start PostgreSQL, MLflow, TorchServe and its agent here; harmless when they run."""
    stack = session.stack
    if session.dry_run:
        status = stack.status()
        if status.is_healthy:
            return Result({"changes": False}, ["all of the stack runs"])
        return Result({"changes": True}, ["would start the stack"], exit=3)
    with session.steps() as progress:
        if foreground:
            progress.on_up = lambda addresses: _say_addresses(addresses)
        status = stack.up(servers=servers, port_base=port_base, foreground=foreground)
    if foreground:
        return Result(_stack_data(status), ["the stack is stopped"])
    return Result(_stack_data(status), _address_lines(status.addresses))


def _say_addresses(addresses: Addresses) -> None:
    for line in (*_address_lines(addresses), "Ctrl-C stops it"):
        say(line)


def _address_lines(addresses: Addresses) -> list[str]:
    from modelswitch.local.ports import tracking_url
    from modelswitch.settings import Local

    lines = [f"MLflow    {addresses.tracking_uri}"]
    for server in addresses.servers:
        lines.append(f"server {server.name}  {server.inference_url}/predictions/NAME")
    if addresses.tracking_uri != tracking_url(Local().port_base):
        lines.append(f"training  export MLFLOW_TRACKING_URI={addresses.tracking_uri}")
    return lines


@click.command("down", cls=Verb, panel=PANEL)
@click.pass_obj
def down(session: Session) -> Result:
    """Stop exactly what `up` started here."""
    stack = session.stack
    if session.dry_run:
        runs = stack.status().is_up
        line = "would stop the stack" if runs else "no stack runs here"
        return Result({"changes": runs}, [line], exit=3 if runs else 0)
    with session.steps():
        stopped = stack.down()
    line = "the stack is stopped; its data stay" if stopped else "no stack runs here"
    return Result({"stopped": stopped}, [line])


@click.command("status", cls=Verb, panel=PANEL)
@click.pass_obj
def status(session: Session) -> Result:
    """What runs and what each server holds; exit 3 if something is not as it should be."""
    from modelswitch.local.addresses import read_state

    stack = None
    if read_state(session.settings) is not None:
        stack = session.stack.status()
    published = session.switch.fleet.published()
    generation = published.pins.generation if published else 0
    now = datetime.now(UTC)
    reports = session.switch.reports()
    servers = [_server_data(report, generation, now) for report in reports]
    fine = (
        bool(servers)
        and all(server["why_not"] is None for server in servers)
        and (stack is None or stack.is_healthy)
    )
    show: list[str | Table] = [*_stack_lines(stack), *_fleet_lines(reports, servers)]
    data = {
        "stack": _stack_data(stack) if stack else None,
        "fleet": {"generation": generation, "servers": servers},
    }
    return Result(data, show, exit=0 if fine else 3)


def _stack_data(status: StackStatus) -> dict[str, Any]:
    return {
        "tracking_uri": status.addresses.tracking_uri,
        "servers": [server.model_dump() for server in status.addresses.servers],
        "members": [
            {
                "name": m.name,
                "pid": m.pid,
                "since": utc_time(m.since),
                "log": str(m.log),
                "healthy": m.is_healthy,
                "why_not": m.why_not,
            }
            for m in status.members
        ],
    }


def _stack_lines(status: StackStatus | None) -> list[str | Table]:
    if status is None:
        return ["no local stack runs here: modelswitch up"]
    rows = [
        (m.name, str(m.pid or "-"), local_time(m.since) or "-", m.why_not or "healthy", str(m.log))
        for m in status.members
    ]
    return [
        Table(("process", "pid", "since", "state", "log"), rows),
        *_address_lines(status.addresses),
    ]


def _server_data(report: Report, generation: int, now: datetime) -> dict[str, Any]:
    why_not = None
    if report.is_silent(now):
        why_not = f"down: {report.why_silent}"
    elif not report.healthy or report.error:
        why_not = report.error or "not healthy"
    elif report.generation != generation:
        why_not = "not yet at the published generation"
    return {
        "name": report.server,
        "url": report.inference_url,
        "generation": {"wanted": generation, "applied": report.generation},
        "heartbeat_at": utc_time(report.heartbeat_at),
        "agent": report.agent,
        "models": {
            name: {
                "default": model.default,
                "proven_at": utc_time(model.proof.at) if model.proof else None,
                "error": model.error,
            }
            for name, model in sorted(report.models.items())
        },
        "why_not": why_not,
    }


def _fleet_lines(reports: tuple[Report, ...], servers: list[dict[str, Any]]) -> list[str | Table]:
    if not servers:
        return ["no server has reported"]
    rows = []
    for report, server in zip(reports, servers, strict=True):
        generation = server["generation"]
        first = (
            server["name"],
            f"{generation['applied']} of {generation['wanted']}",
        )
        defaults = [
            (name, model.default or "-", local_time(model.proof.at) if model.proof else "-")
            for name, model in sorted(report.models.items())
        ] or [("-", "-", "-")]
        for place, default in enumerate(defaults):
            state = (server["why_not"] or "well") if place == 0 else ""
            rows.append((*(first if place == 0 else ("", "")), *default, state))
    return [Table(("server", "generation", "model", "default", "proven since", "state"), rows)]


VERBS = (up, down, status)
