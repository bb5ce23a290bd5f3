"""Verbs on the stack and the servers: up, down, status."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import rich_click as click

from modelswitch.cli.output import Result, Table, local_time, say, utc_time
from modelswitch.cli.session import Session
from modelswitch.cli.verbs import Verb
from modelswitch.errors import ModelSwitchError, NotFound, PinsError

if TYPE_CHECKING:
    from modelswitch.local.addresses import Addresses
    from modelswitch.local.status import StackStatus
    from modelswitch.pins import Pins
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
        stack.refuse_pods()
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
@click.option("--pool", metavar="POOL", help="Only the servers of this pool.")
@click.pass_obj
def status(session: Session, pool: str | None) -> Result:
    """What runs and what each server holds; exit 3 if something is not as it should be."""
    from modelswitch.cli import fleet_status
    from modelswitch.local.addresses import read_state

    stack = None
    if read_state(session.settings) is not None:
        stack = session.stack.status()
    pins, unread = published_pins(session)
    reports = session.switch.reports()
    generation = pins.generation if pins else None
    if pins is None and unread is None:
        if any(report.generation for report in reports):
            unread = "no pins are published any more"
        else:
            generation = 0
    servers = fleet_status.look(_of_pool(reports, pool), pins, datetime.now(UTC))
    pools = fleet_status.pools(servers, generation)
    ledger, stray = _beside_the_ledger(session, pins)
    fine = (
        unread is None
        and stray is None
        and bool(servers)
        and all(server.state == "well" for server in servers)
        and (stack is None or stack.is_healthy)
    )
    show: list[str | Table] = []
    if stack is not None or session.settings.fleet.kind == "folder":
        show += _stack_lines(stack)
    show += [told for told in (unread, stray) if told]
    show += fleet_status.lines(servers, generation) if servers else ["no server has reported"]
    data = {
        "stack": _stack_data(stack) if stack else None,
        "fleet": {
            "generation": generation,
            "ledger": ledger,
            "why_not": unread or stray,
            "pools": [pool.data() for pool in pools],
            "servers": [server.data(generation) for server in servers],
        },
    }
    return Result(data, show, exit=0 if fine else 3)


def published_pins(session: Session) -> tuple[Pins | None, str | None]:
    """What is published, or why it cannot be read: servers can be told of all the same."""
    try:
        published = session.switch.fleet.published()
    except PinsError as error:
        return None, error.message
    return (published.pins if published else None), None


def _beside_the_ledger(session: Session, pins: Pins | None) -> tuple[int | None, str | None]:
    """The ledger's generation, and what is said of published pins that are not the ledger's."""
    try:
        wanted = session.switch.pins()
    except ModelSwitchError as error:  # servers can be told of all the same
        is_named = session.settings.database_url is not None
        return None, f"the ledger was not asked: {error.message}" if is_named else None
    if pins is None or pins.text == wanted.text:
        return wanted.generation, None
    what = f"generation {pins.generation} is published"
    if pins.is_break_glass:
        return wanted.generation, f"{what}, a break-glass rollback: modelswitch resume records it"
    return wanted.generation, f"{what}, the ledger says {wanted.generation}: see modelswitch diff"


def _of_pool(reports: tuple[Report, ...], pool: str | None) -> list[Report]:
    known = sorted({report.pool for report in reports})
    if pool is not None and pool not in known:
        raise NotFound(
            f"no server of a pool {pool!r} has reported",
            next=f"known: {', '.join(known) or 'none'}",
        )
    return [report for report in reports if pool in (None, report.pool)]


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


VERBS = (up, down, status)
