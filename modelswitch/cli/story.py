"""A row of the ledger in one line for people. Pure."""

from __future__ import annotations

from modelswitch.ledger import Event
from modelswitch.line import Kind, named
from modelswitch.moves.news import beside, first_error, newcomer, resized, serves


def story(event: Event, parent: Event | None) -> str:
    """`promote digits@3 → Production (proven on a, b)`; `parent` is the row it stands on."""
    if event.kind is Kind.NOTE:
        return _note(event)
    if event.action == "rollback":
        return _rollback(event)
    if event.action == "retire":
        return _retire(event, parent)
    if event.action == "scale":
        return _scale(event, parent)
    if event.kind is not Kind.SETTLED and event.target is not None and event.line is not None:
        name = named(event.model, newcomer(event.line, event.target), *beside(event, parent))
        if event.head.planned:
            return f"plan to {event.action} {name}: waits for a pull request"
        if event.kind is Kind.PREPARED:
            return f"{event.action} {name}: loading beside what serves"
        return f"{event.action} {name}: the pointer moved, to be proven"
    if parent is not None and parent.kind is not Kind.SETTLED and parent.target is not None:
        return _concluded(event, parent)
    return f"{event.action}: {serves(event.model, event.line)}"


def _note(event: Event) -> str:
    version = event.evidence.get("version")
    of = f"{event.model}@{version}" if version else event.model
    if digest := event.evidence.get("digest"):
        of += f":{digest.removeprefix('sha256:')[:8]}"
    if event.action == "lift":
        return f"lift the quarantine of {of}"
    return f"{event.action} {of}"


def _rollback(event: Event) -> str:
    default = event.line.default if event.line else None
    left = named(event.model, event.leaves, default)
    kept = event.evidence.get("quarantine") is False
    now = named(event.model, default, event.leaves)
    glass = event.evidence.get("break_glass")
    how = f" by break-glass at {glass.get('at')}, recorded here" if glass else ""
    return f"roll back {left} → {now}{how}" + ("" if kept else f" ({left} is quarantined)")


def _retire(event: Event, parent: Event | None) -> str:
    digests = set(event.evidence.get("retired", ()))
    before = parent.line.slots if parent and parent.line else ()
    gone = ", ".join(named(event.model, slot, *before) for slot in before if slot.digest in digests)
    if event.line is not None and not event.line.slots:
        return f"retire {event.model}: nothing of it is served"
    return f"retire {gone or event.model}"


def _scale(event: Event, parent: Event | None) -> str:
    if event.target is not None:
        slot = newcomer(event.line, event.target) if event.line else None
        workers = f" to {slot.workers} workers" if slot else ""
        name = named(event.model, slot, *beside(event, parent))
        return f"scale {name}{workers}: starting beside what serves"
    sizes = resized(event, parent)
    if sizes is None:
        late = first_error(event.evidence.get("servers", {}))
        return f"scale {event.model}: undone" + (f" (server {late[0]}: {late[1]})" if late else "")
    on = _servers(event, "proven")
    return f"scale: {sizes}" + (f" (proven on {on})" if on else "")


def _concluded(event: Event, parent: Event) -> str:
    assert parent.line is not None  # noqa: S101 an open row has both
    assert parent.target is not None  # noqa: S101
    slot = newcomer(parent.line, parent.target)
    together = beside(event, parent)
    name = named(event.model, slot, *together)
    verb = event.action if event.action == parent.action else f"{event.action}: {parent.action}"
    if event.line == parent.target:
        is_default = slot is not None and event.line.default == slot
        stage = "Production" if is_default else "Staging"
        on = _servers(event, "proven")
        return f"{verb} {name} → {stage}" + (f" (proven on {on})" if on else "")
    late = first_error(event.evidence.get("servers", {}))
    why = f"server {late[0]}: {late[1]}" if late else ""
    back = serves(event.model, event.line, *together)
    return f"{verb} {name}: undone{f' ({why})' if why else ''}; {back}"


def _servers(event: Event, state: str) -> str:
    servers = event.evidence.get("servers", {})
    return ", ".join(name for name, said in servers.items() if said.get("state") == state)
