"""A move as people are told of it where they look: what a settled row says, in one line. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from modelswitch.fleet.protocol import News
from modelswitch.ledger import Event
from modelswitch.line import Line, Slot, named


def of_row(event: Event, parent: Event | None, states: Mapping[str, str]) -> News | None:
    """What to tell of `event`, which stands on `parent`; None of a row that settles nothing.

    `states`: of a rollback, whose row was written before any server followed, what each of them
    is now: `proven`, or not.
    """
    if event.is_note or event.head.is_open:
        return None
    line, who = event.head.line, f"by {event.actor.name}: {event.reason} (row {event.seq})"
    if event.action == "rollback":
        kept = event.evidence.get("quarantine") is False
        left = named(event.model, event.leaves, line.default)
        end = "" if kept else f"; {left} is quarantined"
        return of_rollback(event.model, event.leaves, line, who, states, end=end)
    if event.action == "retire":
        now = serves(event.model, line, *beside(event, parent))
        what = f"{_retired(event, parent)} retired, {now}, {who}"
        return News(line.pool, "Retired", what)
    if event.action == "scale" and (sizes := resized(event, parent)):
        what = f"{sizes}, {who}{_proven(_states(event))}"
        return News(line.pool, "Scaled", what)
    if parent is None or parent.line is None or parent.target is None:
        return None
    slot = newcomer(parent.line, parent.target)
    together = beside(event, parent)
    name = named(event.model, slot, *together)
    pool = (slot.pool if slot else None) or parent.head.pool
    evidence = event.evidence.get("servers", {})
    if line != parent.target and parent.head.planned:
        return News(pool, "PlanEnded", f"{name} was planned and is not to be, {who}")
    if line != parent.target:
        why = _why(evidence) or "it was not waited for"
        what = f"{name} was undone, {serves(event.model, line, *together)}, {who}; {why}"
        return News(pool, "NotProven", what, is_bad=True)
    on = _proven(_states(event))
    if parent.head.keeps_default:
        return News(pool, "Staged", f"{name} is in Staging, {who}{on}")
    return News(pool, "Promoted", f"{_arrow(event.model, parent.line.default, slot)} {who}{on}")


def of_rollback(
    model: str,
    left: Slot | None,
    line: Line,
    who: str,
    states: Mapping[str, str],
    *,
    end: str = "",
) -> News:
    """`line` is the one that stands now."""
    what = f"{_arrow(model, left, line.default)} {who}{_proven(states)}{end}"
    is_bad = any(state != "proven" for state in states.values())
    return News(line.pool, "RolledBack", what, is_bad=is_bad)


def newcomer(line: Line, target: Line) -> Slot | None:
    """The slot a move is about: the new default, else the new candidate."""
    default = target.default
    if default is not None and (line.default is None or line.default.digest != default.digest):
        return default
    new = (s for s in reversed(target.candidates) if line.find(s.digest) is None)
    return next(new, _sized(line, target) or default)


def resized(event: Event, parent: Event | None) -> str | None:
    """`digits@3 has 4 workers (before: 2)`, of a row that changes a slot's; else None."""
    before = parent.line if parent else None
    after = event.target or event.line
    slot = _sized(before, after) if before and after else None
    was = before.find(slot.digest) if before and slot else None
    if slot is None or was is None:
        return None
    workers = f"{slot.workers} worker{'' if slot.workers == 1 else 's'}"
    name = named(event.model, slot, *beside(event, parent))
    return f"{name} has {workers} (before: {was.workers})"


def _sized(line: Line, target: Line) -> Slot | None:
    """The slot that stands in both with different workers."""
    both = ((slot, line.find(slot.digest)) for slot in target.slots)
    return next((slot for slot, was in both if was and was.workers != slot.workers), None)


def _states(event: Event) -> dict[str, str]:
    evidence = event.evidence.get("servers", {})
    return {server: said.get("state", "") for server, said in evidence.items()}


def beside(event: Event, parent: Event | None) -> tuple[Slot, ...]:
    """Every slot of a row and of the one it stands on: what may share a version."""
    lines = [line for e in (event, parent) if e for line in (e.line, e.target) if line]
    return tuple(slot for line in lines for slot in line.slots)


def serves(model: str, line: Line | None, *beside: Slot) -> str:
    default = line.default if line else None
    return f"{named(model, default, *beside)} serves" if default else "nothing serves"


def first_error(servers: Mapping[str, Mapping[str, str | None]]) -> tuple[str, str] | None:
    """What kept a move back: a server that failed before one that only was not done yet."""
    late = [(name, said) for name, said in servers.items() if said.get("state") != "proven"]
    for name, said in sorted(late, key=lambda pair: not pair[1].get("error")):
        text = (said.get("error") or said.get("state") or "behind").strip()
        return name, text.splitlines()[-1]
    return None


def _arrow(model: str, left: Slot | None, now: Slot | None) -> str:
    both = (left, now)
    return " → ".join(named(model, slot, *both) if slot else "nothing" for slot in both)


def _proven(states: Mapping[str, str]) -> str:
    if not states:
        return ""
    proven = sum(state == "proven" for state in states.values())
    return f", proven on {proven} of {len(states)} pod{'' if len(states) == 1 else 's'}"


def _why(servers: Mapping[str, Mapping[str, str | None]]) -> str:
    first = first_error(servers)
    if first is None:
        return ""
    rest = sum(said.get("state") != "proven" for said in servers.values()) - 1
    return f"pod {first[0]}: {first[1]}" + (f" (and {rest} more)" if rest else "")


def _retired(event: Event, parent: Event | None) -> str:
    digests = set(event.evidence.get("retired", ()))
    slots = parent.line.slots if parent and parent.line else ()
    gone = [named(event.model, slot, *slots) for slot in slots if slot.digest in digests]
    return ", ".join(gone) or event.model
