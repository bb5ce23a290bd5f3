"""What the ledger and the reports say together: models at a glance, and where they differ.

Pure: everything is handed in. `differences` is what `diff` prints; each one says how to end it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from modelswitch.ledger import Event, since
from modelswitch.line import Slot
from modelswitch.pins import Pins
from modelswitch.reports import Report, State


@dataclass(frozen=True, slots=True)
class WayBack:
    """A slot behind the default; `warm` when every live server could switch to it at once."""

    version: str
    digest: str
    warm: bool


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model at a glance. `healthy`: every server of its pool proves it, and none is down.

    None while no server has reported.
    """

    model: str
    production: Slot | None
    staging: tuple[Slot, ...]
    ways_back: tuple[WayBack, ...]
    since: datetime | None
    by: str | None
    healthy: bool | None
    open: str | None = None


def model_row(
    model: str, rows: Iterable[Event], reports: Iterable[Report], now: datetime
) -> ModelRow:
    """What one model's rows and the servers' reports say of it."""
    rows = list(rows)
    head = max((e for e in rows if not e.is_note), key=lambda e: e.seq, default=None)
    if head is None:
        return ModelRow(model, None, (), (), None, None, None)
    standing = head.head.standing
    mine = [r for r in reports if r.pool == head.head.pool]
    live = [r for r in mine if not r.is_silent(now)]
    began = since(rows)
    default = standing.default
    healthy: bool | None = None
    if default is not None and mine:
        healthy = len(live) == len(mine) and all(
            r.proves(model, default.label, default.digest)
            and r.slot(model, default.label).workers > 0
            for r in live
        )
    return ModelRow(
        model=model,
        production=default,
        staging=standing.candidates,
        ways_back=tuple(
            WayBack(
                s.version, s.digest, bool(live) and all(r.is_warm(model, s.label) for r in live)
            )
            for s in standing.ways_back
        ),
        since=began.at if began else None,
        by=began.actor.name if began else None,
        healthy=healthy,
        open=_open(head),
    )


def _open(head: Event) -> str | None:
    if not head.head.is_open:
        return None
    what = "waits for a pull request" if head.head.planned else str(head.kind)
    return f"{head.action} ({what}, row {head.seq})"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as the ledger says. `fix` is a command or an advice."""

    kind: str
    model: str | None
    where: str
    wanted: str
    found: str
    fix: str


def differences(
    wanted: Pins,
    published: Pins | None,
    reports: Iterable[Report],
    heads: Mapping[str, Event],
    now: datetime,
    *,
    unreadable: str | None = None,
    applied: Event | None = None,
    start: str = "modelswitch up",
    forget: Callable[[str], str] = "modelswitch agent forget {}".format,
) -> list[Difference]:
    """Where the fleet's pins and the servers differ from what the ledger says.

    `unreadable` says why the published pins cannot be read, if somebody has spoilt them.
    `applied`: the plan whose pins are `wanted`, because they are published. `start`: how servers
    are brought where there is none; `forget`: how one is struck off the roster.
    """
    found: list[Difference] = []
    for model, event in sorted(heads.items()):
        if event == applied:
            found.append(
                Difference(
                    "open",
                    model,
                    f"row {event.seq}",
                    "settled",
                    f"{event.actor.name}'s plan to {event.action} is applied, not concluded",
                    "modelswitch resume --wait",
                )
            )
        elif event.head.planned:
            found.append(
                Difference(
                    "open",
                    model,
                    f"row {event.seq}",
                    "settled",
                    f"{event.actor.name}'s plan to {event.action} waits for a pull request",
                    "apply its pins, then modelswitch resume --wait",
                )
            )
        elif event.head.is_open:
            found.append(
                Difference(
                    "open",
                    model,
                    f"row {event.seq}",
                    "settled",
                    f"{event.kind}: {event.actor.name}'s {event.action} has not been concluded",
                    f"modelswitch resume {model}",
                )
            )
    found += _pins_differences(wanted, published, unreadable)
    roster = list(reports)
    if not roster and _asks(wanted):
        found.append(Difference("server", None, "fleet", "a server", "none has reported", start))
    # Break-glass pins are what servers should hold until the ledger is told of them.
    stands = published if published is not None and published.is_break_glass else wanted
    for report in roster:
        found += _server_differences(stands, report, now, forget)
    return found


def _asks(pins: Pins) -> bool:
    """Whether pins ask a server for anything: of a retired model only its name is left."""
    return any(model.slots for model in pins.models.values())


def _pins_differences(
    wanted: Pins, published: Pins | None, unreadable: str | None
) -> list[Difference]:
    if published is None:
        if not _asks(wanted) and unreadable is None:
            return []
        return [
            Difference(
                "pins",
                None,
                "fleet",
                f"generation {wanted.generation}",
                unreadable or "nothing published",
                "modelswitch resume",
            )
        ]
    if published.text == wanted.text:
        return []
    models = sorted(
        name
        for name in {*wanted.models, *published.models}
        if wanted.models.get(name) != published.models.get(name)
    )
    if published.is_break_glass:
        what = f"a break-glass rollback of {', '.join(models)}, which the ledger has not heard of"
        return [
            Difference(
                "pins",
                None,
                "fleet",
                f"generation {wanted.generation}",
                f"generation {published.generation}: {what}",
                "modelswitch resume records it",
            )
        ]
    above = published.generation > wanted.generation
    fix = 'modelswitch resume --outrank --reason "…"' if above else "modelswitch resume"
    return [
        Difference(
            "pins",
            None,
            "fleet",
            f"generation {wanted.generation}",
            f"generation {published.generation}"
            + (f", other pins for {', '.join(models)}" if models else "")
            + (
                ": not from the ledger"
                if above or published.generation == wanted.generation
                else ""
            ),
            fix,
        )
    ]


def _server_differences(
    wanted: Pins, report: Report, now: datetime, forget: Callable[[str], str]
) -> list[Difference]:
    where = f"server {report.server}"
    if report.is_silent(now):
        return [
            Difference(
                "server",
                None,
                where,
                "a heartbeat",
                report.why_silent,
                f"start it, or strike it off: {forget(report.server)}",
            )
        ]
    found: list[Difference] = []
    outrank = 'modelswitch resume --outrank --reason "…"'
    is_ahead = report.generation > wanted.generation
    if report.generation != wanted.generation:
        found.append(
            Difference(
                "server",
                None,
                where,
                f"generation {wanted.generation}",
                f"generation {report.generation}" + (f": {report.error}" if report.error else ""),
                outrank
                if is_ahead
                else "it follows by itself; if not: modelswitch logs --server " + report.server,
            )
        )
    for name, model in sorted(wanted.of_pool(report.pool).items()):
        said = report.models.get(name)
        default = said.default if said else None
        if default != model.default:
            found.append(
                Difference(
                    "default",
                    name,
                    where,
                    str(model.default),
                    str(default),
                    outrank
                    if is_ahead
                    else "it is put right by itself; if not: modelswitch logs " + name,
                )
            )
        for label, slot in sorted(model.slots.items()):
            at = report.slot(name, label)
            if at.state is not State.PROVEN or at.workers < slot.workers:
                found.append(
                    Difference(
                        "slot",
                        name,
                        f"{where} {label}",
                        f"proven, {slot.workers} worker{'s' if slot.workers > 1 else ''}",
                        f"{at.state}, {at.workers}"
                        + (f": {_last_line(at.error)}" if at.error else ""),
                        f"modelswitch logs {name}@{label.partition('-')[0]}",
                    )
                )
    for other in report.foreign:
        found.append(
            Difference(
                "foreign",
                other.model,
                where,
                "not there",
                "loaded by somebody else",
                f'modelswitch adopt {other.model} --reason "…", or unregister it there',
            )
        )
    return found


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else ""
