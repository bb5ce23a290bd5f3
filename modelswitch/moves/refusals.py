"""What a move is refused with before its first row. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from modelswitch.errors import Quarantined, Refused, WaitsForApproval
from modelswitch.ledger import Event, find_quarantine, quarantine
from modelswitch.line import Line, Slot


def in_pool(model: str, line: Line, pool: str | None) -> Line:
    """The line in the pool that was asked for; raises Refused when it stands in another."""
    if pool is None or pool == line.pool:
        return line
    if line.slots:
        raise Refused(
            f"{model} belongs to the pool {line.pool}, and does not move to {pool} while it is "
            "loaded there",
            next=f"modelswitch retire {model}, then promote it into {pool}; a candidate alone: "
            f"--to staging --only-in {pool}",
        )
    return replace(line, pool=pool)


def refuse_cold(model: str, slot: Slot) -> Refused:
    return Refused(
        f"{model}@{slot.version} is not warm on every server, so a pull request could not switch "
        "to it at once",
        next=f'modelswitch promote {model}@{slot.version} --to staging --reason "…" first',
    )


def waits(model: str, event: Event) -> WaitsForApproval:
    """What is said of a plan that is not applied yet."""
    target = event.head.target
    new = [s for s in (target.slots if target else ()) if s not in event.head.line.slots]
    slot = new[0] if new else (target.default if target else None)
    what = f"{model}@{slot.version}" if slot else model
    return WaitsForApproval(
        f"{what} waits for a pull request: {event.actor.name} planned its {event.action} "
        f"(row {event.seq}: {event.reason})",
        next=f"apply its pins, then modelswitch resume --wait; or modelswitch resume {model} "
        "--give-up",
    )


def refuse_quarantined(rows: Iterable[Event], model: str, slot: Slot) -> None:
    """Raise Quarantined, with who rolled it back and why, if the model's rows say so."""
    entry = find_quarantine(quarantine(rows), slot)
    if entry is not None:
        raise Quarantined(
            f"{entry.ref(model)} is quarantined: {entry.actor.name} rolled it back "
            f"(row {entry.seq}: {entry.reason})",
            next=f'modelswitch quarantine lift {entry.ref(model)} --reason "…"',
        )


def refuse_resizing(model: str, slot: Slot, workers: int | None) -> None:
    """Raise Refused where a move that finds nothing to do was asked for other workers."""
    if workers is not None and workers != slot.workers:
        raise Refused(
            f"{model}@{slot.version} is there already, with {slot.workers} "
            f"worker{'' if slot.workers == 1 else 's'}",
            next=f'modelswitch scale {model}@{slot.version} --workers {workers} --reason "…"',
        )
