"""Verbs that move a model's line: promote, rollback, retire, resume, quarantine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from modelswitch.cli.moved import marks, moved_data, planned, promoted, proven
from modelswitch.cli.output import Result, Table, counted, local_time
from modelswitch.cli.session import Session
from modelswitch.cli.verbs import ALLOW_PICKLE, WORKERS, Verb, Verbs, complete_model
from modelswitch.errors import LedgerUnreachable, UsageError
from modelswitch.line import named

if TYPE_CHECKING:
    from modelswitch.moves.preview import Preview

PANEL = "Moves"
_WAIT_S = 600.0  # for a plan to be applied, unless --timeout says otherwise


@click.command("promote", cls=Verb, panel=PANEL)
@click.argument("ref", shell_complete=complete_model)
@click.option(
    "--to", default="production", show_default=True, metavar="STAGE", help="staging or production."
)
@click.option("--reason", metavar="TEXT", help="Why; recorded. Asked for on a terminal.")
@click.option("--no-golden", is_flag=True, help="Build without a golden request.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Another recipe: TOML, JSON.")
@ALLOW_PICKLE
@click.option("--workers", type=WORKERS, metavar="N", help="Worker processes on each server.")
@click.option("--overcommit", is_flag=True, help="More than a server's memory and cores.")
@click.option("--pool", metavar="POOL", help="The servers that shall hold a new model.")
@click.option("--only-in", metavar="POOL", help="Keep a candidate to the servers of this pool.")
@click.option("--plan", is_flag=True, help="Only write the pins down, for a pull request.")
@click.pass_obj
def promote(
    session: Session,
    ref: str,
    to: str,
    reason: str | None,
    no_golden: bool,
    recipe: Path | None,
    allow_pickle: bool,
    workers: int | None,
    overcommit: bool,
    pool: str | None,
    only_in: str | None,
    plan: bool,
) -> Result:
    """Bring a version to Staging (loaded, no traffic) or to Production (answers everywhere)."""
    from modelswitch.cli.documents import read_recipe
    from modelswitch.refs import parse_ref, parse_stage

    wanted, stage = parse_ref(ref), parse_stage(to)
    if not (pool is None or pool.strip()) or not (only_in is None or only_in.strip()):
        # A variable that is not set, in a pipeline: not every pool is meant by it.
        raise UsageError("--pool and --only-in name a pool, and '' is none")
    if stage not in ("staging", "production"):
        raise UsageError(
            f"a version is promoted to staging or production, not to {stage}",
            next=f"modelswitch retire {ref} takes it out of service",
        )
    document = read_recipe(recipe) if recipe else None
    if allow_pickle:
        document = session.switch.allowing_pickle(wanted, document)
    if session.dry_run:
        preview = session.switch.dry_run.promote(
            wanted,
            stage,
            golden=not no_golden,
            recipe=document,
            pool=pool,
            only_in=only_in,
            workers=workers,
            overcommit=overcommit,
        )
        return _previewed(preview)
    why = session.reason(reason)
    with session.steps(ref) as progress:
        switched = session.switch.promote(
            wanted,
            stage,
            why,
            golden=not no_golden,
            recipe=document,
            pool=pool,
            only_in=only_in,
            plan=plan,
            workers=workers,
            overcommit=overcommit,
        )
    if switched.moved.plan is not None:
        return Result(
            moved_data(switched) | {"stage": str(stage)},
            [planned(switched, switched.moved.plan)],
        )
    return Result(
        moved_data(switched) | {"stage": str(stage)},
        [promoted(session, switched, str(stage), progress.waited_s)],
    )


@click.command("rollback", cls=Verb, panel=PANEL)
@click.argument("name", shell_complete=complete_model)
@click.option("--reason", metavar="TEXT", help="Why; recorded. Asked for on a terminal.")
@click.option("--from", "leaves", metavar="VERSION", help="Refuse unless this version serves.")
@click.option("--no-quarantine", is_flag=True, help="Let what is left be promoted again.")
@click.option("--break-glass", is_flag=True, help="The database is away: by the published pins.")
@click.pass_obj
def rollback(
    session: Session,
    name: str,
    reason: str | None,
    leaves: str | None,
    no_quarantine: bool,
    break_glass: bool,
) -> Result:
    """Go back to the version that served before. What is left is quarantined."""
    from modelswitch.refs import check_name

    check_name(name)
    try:
        shown = session.switch.dry_run.rollback(name, leaves=leaves, break_glass=break_glass)
    except LedgerUnreachable as error:
        glass = f'if it must be now: modelswitch rollback {name} --break-glass --reason "…"'
        advice = f"{error.next}; {glass}" if error.next else glass
        raise LedgerUnreachable(error.message, next=advice) from error
    if session.dry_run:
        return _previewed(shown)
    why = session.reason(reason)
    way = f"roll back {shown.name(shown.before)} to {shown.name(shown.after)}"
    if not session.agrees(f"{way} on {counted(len(shown.servers), 'server')}?"):
        return Result({}, talk=["nothing was changed"], exit=1)
    with session.steps(shown.name(shown.after)) as progress:
        switched = session.switch.rollback(
            name,
            why,
            leaves=shown.leaves,
            quarantines=not no_quarantine,
            break_glass=break_glass,
        )
    moved = switched.moved
    now, left = named(name, moved.after, moved.before), named(name, moved.before, moved.after)
    line = (
        f"{now} serves again on {proven(moved, progress.waited_s)}. Left: {left}"
        f"{'' if no_quarantine else ', quarantined'}. {marks(switched)}"
    )
    return Result(moved_data(switched), [line])


@click.command("retire", cls=Verb, panel=PANEL)
@click.argument("ref", shell_complete=complete_model)
@click.option("--reason", metavar="TEXT", help="Why; recorded. Asked for on a terminal.")
@click.pass_obj
def retire(session: Session, ref: str, reason: str | None) -> Result:
    """Unload a candidate or a way back; with a bare NAME, the whole model."""
    from modelswitch.refs import parse_ref

    wanted = parse_ref(ref)
    if session.dry_run:
        return _previewed(session.switch.dry_run.retire(wanted))
    why = session.reason(reason)
    if str(wanted) == wanted.name and not session.agrees(
        f"take the whole model {ref} out of service?"
    ):
        return Result({}, talk=["nothing was changed"], exit=1)
    with session.steps(ref):
        switched = session.switch.retire(wanted, why)
    moved = switched.moved
    serves = "nothing serves"
    if moved.after:
        recipe = f" ({moved.after.digest8})" if wanted.digest8 else ""
        serves = f"{moved.model}@{moved.after.version}{recipe} serves"
    line = (
        f"{ref} is retired; {serves}. Servers unload it once it was quiet for its response "
        f"timeout. {marks(switched)}"
    )
    return Result(moved_data(switched), [line])


@click.command("resume", cls=Verb, panel=PANEL)
@click.argument("name", required=False, shell_complete=complete_model)
@click.option("--now", is_flag=True, help="Even while its command is still at work.")
@click.option("--wait", is_flag=True, help="For a plan: until it is applied and proven.")
@click.option("--give-up", is_flag=True, help="End a plan that shall not be applied.")
@click.option(
    "--allow-other-changes", is_flag=True, help="Terraform may change more than the pins."
)
@click.option("--outrank", is_flag=True, help="Publish above pins that something else wrote.")
@click.option("--reason", metavar="TEXT", help="Why it is outranked.")
@click.pass_obj
def resume(
    session: Session,
    name: str | None,
    now: bool,
    wait: bool,
    give_up: bool,
    allow_other_changes: bool,
    outrank: bool,
    reason: str | None,
) -> Result:
    """Conclude what an ended command left open, publish what the ledger says, catch marks up."""
    if wait and give_up:
        raise UsageError("--wait or --give-up, not both", next="modelswitch resume --help")
    if give_up and name is None:
        raise UsageError("--give-up ends one plan: name its model", next="modelswitch diff")
    if reason and not outrank:
        raise UsageError("--reason goes with --outrank", next="modelswitch resume --help")
    if session.dry_run:
        return _previewed_resume(session.switch.dry_run.resume(name))
    why = session.reason(reason) if outrank else None
    before = session.switch.published()
    with session.steps(name or ""):
        concluded = session.switch.resume(
            name,
            now=now,
            outrank=why,
            give_up=give_up,
            allow_other_changes=allow_other_changes,
            wait_s=(session.timeout_s or _WAIT_S) if wait else 0.0,
        )
    lines = []
    for switched in concluded:
        moved = switched.moved
        serves = f"{moved.model}@{moved.after.version} serves" if moved.after else "nothing serves"
        what = (
            f"the plan of {moved.model} is given up" if give_up else f"{moved.model} is concluded"
        )
        lines.append(f"{what}: {serves}. {marks(switched)}")
    after = session.switch.published()
    if before and before.is_break_glass and after and not after.is_break_glass:
        lines.append("the break-glass rollback is recorded: modelswitch history")
    if after and (before is None or after.text != before.text):
        was = f"generation {before.generation}" if before else "nothing readable"
        lines.append(f"published: generation {after.generation} (before: {was})")
    generation = after.generation if after else 0
    ahead = [r.server for r in session.switch.reports() if r.generation > generation]
    if ahead:
        lines.append(
            f"{', '.join(ahead[:3])} took pins of a higher generation that are not the ledger's: "
            'modelswitch resume --outrank --reason "…"'
        )
    return Result(
        [moved_data(s) for s in concluded],
        lines or ["nothing was open; the fleet and the marks are as the ledger says"],
        exit=4 if ahead else 0,
    )


@click.command("adopt", cls=Verb, panel=PANEL)
@click.argument("ref", required=False)
@click.option("--reason", metavar="TEXT", help="Why; recorded. Asked for on a terminal.")
@click.pass_obj
def adopt(session: Session, ref: str | None, reason: str | None) -> Result:
    """Bring what MLflow calls Production under the ledger; without REF, list what there is."""
    from modelswitch.refs import parse_ref

    if ref is None:
        names = session.switch.adoptable()
        lines = [f'modelswitch adopt {name} --reason "…"' for name in names]
        return Result(names, lines or ["MLflow calls nothing Production that is not known here"])
    wanted = parse_ref(ref)
    if session.dry_run:
        return _previewed(session.switch.dry_run.adopt(wanted))
    why = session.reason(reason)
    with session.steps(ref) as progress:
        switched = session.switch.adopt(wanted, why)
    line = promoted(session, switched, "production", progress.waited_s)
    return Result(moved_data(switched), [line])


@click.group("quarantine", cls=Verbs, panel=PANEL)
def quarantine() -> None:
    """What was rolled back and may not be promoted again."""


@quarantine.command("list")
@click.pass_obj
def quarantine_list(session: Session) -> Result:
    """Every version in quarantine: who rolled it back, and why."""
    entries = [(m, e) for m, found in session.switch.quarantined().items() for e in found]
    data = [
        {
            "model": model,
            "version": entry.slot.version,
            "digest": entry.slot.digest,
            "whole_version": entry.whole_version,
            "event": entry.seq,
            "by": entry.actor.name,
            "reason": entry.reason,
        }
        for model, entry in entries
    ]
    if not data:
        return Result(data, ["nothing is quarantined"])
    rows = [
        (
            e.ref(m),
            e.actor.name,
            f"row {e.seq}",
            e.reason,
        )
        for m, e in entries
    ]
    return Result(data, [Table(("version", "by", "since", "reason"), rows)])


@quarantine.command("lift")
@click.argument("ref", shell_complete=complete_model)
@click.option("--reason", metavar="TEXT", help="Why; recorded. Asked for on a terminal.")
@click.pass_obj
def quarantine_lift(session: Session, ref: str, reason: str | None) -> Result:
    """End the quarantine of a version, or of one archive: NAME@VERSION:DIGEST."""
    from modelswitch.refs import parse_ref

    wanted = parse_ref(ref)
    if session.dry_run:
        inside = session.switch.dry_run.lift(wanted)
        line = f"would lift the quarantine of {ref}" if inside else f"{ref} is not quarantined"
        return Result({"changes": inside}, [line], exit=3 if inside else 0)
    event = session.switch.lift(wanted, session.reason(reason))
    line = f"{ref} may be promoted again (row {event.seq}, {local_time(event.at)})"
    return Result(event.to_json(), [line])


VERBS = (promote, rollback, retire, resume, adopt, quarantine)


def _previewed(preview: Preview) -> Result:
    return Result(preview.to_json(), preview.lines, exit=3 if preview.changes else 0)


def _previewed_resume(previews: list[Preview]) -> Result:
    changes = any(preview.changes for preview in previews)
    lines = [line for preview in previews for line in preview.lines]
    return Result(
        [preview.to_json() for preview in previews],
        lines or ["nothing is open"],
        exit=3 if changes else 0,
    )
