"""A concluded move as JSON and as lines: what `promote`, `rollback`, `scale` and others share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelswitch.cli.output import counted, utc_time
from modelswitch.cli.session import Session
from modelswitch.line import named

if TYPE_CHECKING:
    from modelswitch.moves import Moved
    from modelswitch.switch import Switched


def moved_data(switched: Switched) -> dict[str, Any]:
    moved = switched.moved
    return {
        "model": moved.model,
        "from": moved.before.version if moved.before else None,
        "to": moved.after.version if moved.after else None,
        "digest": moved.after.digest if moved.after else None,
        "event": moved.event,
        "generation": moved.generation,
        "changed": moved.changed,
        "replaced": [slot.version for slot in moved.replaced],
        "servers": servers_data(moved),
        "marks": switched.marks,
    } | ({"plan": moved.plan} if moved.plan else {})


def servers_data(moved: Moved) -> list[dict[str, Any]]:
    return [
        {
            "name": server.name,
            "state": server.state,
            "proven_at": utc_time(server.proven_at),
            "latency_ms": server.latency_ms,
            "error": server.error,
        }
        for server in moved.servers
    ]


def promoted(session: Session, switched: Switched, stage: str, waited_s: float | None) -> str:
    moved = switched.moved
    together = (moved.before, moved.after, *moved.replaced)
    name = named(moved.model, moved.after, *together)
    if not moved.changed:
        return f"{name} is in {stage.capitalize()} already; nothing was changed. {marks(switched)}"
    if stage == "production":
        line = f"{name} serves on {proven(moved, waited_s)}."
        if moved.before:
            before = named(moved.model, moved.before, *together)
            line += f" Before: {before}, warm as the way back."
    else:
        line = f"{name} is in Staging on {proven(moved, waited_s)} and takes no traffic."
    if moved.replaced:
        gone = ", ".join(named(moved.model, slot, *together) for slot in moved.replaced)
        line += f" It replaces the candidate {gone}."
    if moved.after and moved.after.workers > 1:
        line += f" {moved.after.workers} workers on each."
    line += f" {marks(switched)}"
    if stage == "staging" and moved.after:
        fleet = session.settings.fleet
        servers = session.switch.addresses.servers if fleet.kind == "folder" else ()
        url = fleet.inference_url or (servers[0].inference_url if servers else None)
        if url:
            line += f" Try it: {url}/predictions/{moved.model}/{moved.after.label}"
    return line


def planned(switched: Switched, file: str) -> str:
    moved = switched.moved
    first = "is planned" if moved.changed else "was planned already"
    return (
        f"{moved.model}@{version(moved.after)} {first} (row {moved.event}): its pins stand in "
        f"{file}, and nothing has changed on any server. Commit it, have it applied, then: "
        "modelswitch resume --wait"
    )


def proven(moved: Moved, waited_s: float | None) -> str:
    """`3 servers, proven in 41 ms (a 3.1 ms, b 2.8 ms, c 3.0 ms)`."""
    each = ", ".join(
        f"{s.name} {s.latency_ms:.1f} ms" if s.latency_ms is not None else s.name
        for s in moved.servers
    )
    took = ""
    if waited_s is not None:
        took = f" in {waited_s:.1f} s" if waited_s >= 1 else f" in {waited_s * 1000:.0f} ms"
    return f"{counted(len(moved.servers), 'server')}, proven{took} ({each})"


def marks(switched: Switched) -> str:
    if switched.marks != "pending":
        return f"MLflow's marks: {switched.marks}."
    return f"MLflow's marks: pending ({switched.marks_error}); modelswitch resume catches them up."


def version(slot: Any) -> str:
    return slot.version if slot is not None else "-"
