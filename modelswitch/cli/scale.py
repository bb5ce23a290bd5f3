"""The verb that changes workers."""

from __future__ import annotations

import rich_click as click

from modelswitch.cli.moved import servers_data, version
from modelswitch.cli.output import Result, counted
from modelswitch.cli.session import Session
from modelswitch.cli.verbs import WORKERS, Verb, complete_model
from modelswitch.line import named


@click.command("scale", cls=Verb, panel="Moves")
@click.argument("ref", shell_complete=complete_model)
@click.option("--workers", type=WORKERS, required=True, metavar="N", help="On each server.")
@click.option("--reason", metavar="TEXT", help="Why; recorded. Asked for on a terminal.")
@click.option("--overcommit", is_flag=True, help="More than a server's memory and cores.")
@click.pass_obj
def scale(session: Session, ref: str, workers: int, reason: str | None, overcommit: bool) -> Result:
    """Change the workers of what serves (NAME), or of any loaded version (NAME@3), live."""
    from modelswitch.refs import parse_ref

    wanted = parse_ref(ref)
    if session.dry_run:
        sizing = session.switch.dry_run.scale(wanted, workers, overcommit=overcommit)
        return Result(sizing.to_json(), sizing.lines, exit=3 if sizing.changes else 0)
    why = session.reason(reason)
    quiet_s = None if session.json else session.switch.dry_run.shrinking_s(wanted, workers)
    if quiet_s is not None:
        click.echo(
            f"{ref}: takes about {quiet_s:g} s (its response timeout) and a few more, in which a "
            "stand-in answers, so that no worker ends with a request in hand",
            err=True,
        )
    with session.steps(ref):
        moved = session.switch.scale(wanted, workers, why, overcommit=overcommit)
    before, after = moved.before, moved.after
    data = {
        "model": moved.model,
        "version": version(after),
        "label": after.label if after else None,
        "digest": after.digest if after else None,
        "from": before.workers if before else None,
        "to": workers,
        "event": moved.event,
        "generation": moved.generation,
        "changed": moved.changed,
        "servers": servers_data(moved),
    }
    event = session.switch.ledger.head(moved.model)
    name = named(moved.model, after, *(event.head.slots if event else ()))
    has = counted(workers, "worker")
    if not moved.changed or before is None:
        return Result(data, [f"{name} has {has} on each server already; nothing was changed."])
    on = ", ".join(server.name for server in moved.servers)
    line = f"{name} has {has}, READY on {on}. Before: {before.workers}."
    return Result(data, [line])


VERBS = (scale,)
