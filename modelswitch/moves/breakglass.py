"""Rolling back while the database is away, and recording it when it returns.

The published pins are all there is to go by: they name the ways back. What is published this way
carries an epoch of its own and a note of who did it and why; the first verb that reaches the
ledger again writes the row that should have stood there, above the number that was used.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from modelswitch.effects import correlation_id
from modelswitch.errors import NoLongerServes, NothingToGoBackTo
from modelswitch.fleet.protocol import Fleet, Published
from modelswitch.ledger import Draft, Event, Ledger, ways_back
from modelswitch.line import Kind, Line, Slot, version_of
from modelswitch.pins import BREAK_GLASS, PinnedModel, Pins


def break_glass(
    fleet: Fleet, model: str, *, leaves: str | None, note: Mapping[str, Any]
) -> tuple[Slot, Slot, Pins]:
    """Publish pins whose default is the nearest way back; what was left, what serves, the pins.

    Raises NothingToGoBackTo and NoLongerServes as a rollback does.
    """
    published = fleet.published()
    pinned = published.pins.models.get(model) if published else None
    if published is None or pinned is None or pinned.default is None:
        raise NothingToGoBackTo(f"nothing of {model} is pinned, so there is nothing to leave")
    if leaves not in (None, pinned.default, version_of(pinned.default)):
        raise NoLongerServes(
            f"{model}@{leaves} is not what the published pins name: "
            f"{model}@{version_of(pinned.default)} is"
        )
    if not pinned.back:
        raise NothingToGoBackTo(f"the published pins name no way back for {model}")
    there = pinned.model_copy(update={"default": pinned.back[0], "back": pinned.back[1:]})
    pins = published.pins.model_copy(
        update={
            "models": {**published.pins.models, model: there},
            "generation": published.pins.generation + 1,
            "epoch": BREAK_GLASS + uuid.uuid4().hex,
        }
    )
    story = {
        **note,
        "model": model,
        "leaves": pinned.default,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "earlier": published.note,
    }
    stands = fleet.publish(pins, correlation_id=correlation_id(), note=story)
    if stands != pins:
        raise NoLongerServes(
            f"other pins of {model} were published in the same moment; nothing was rolled back"
        )
    return _slot(pinned, pinned.default), _slot(pinned, pinned.back[0]), pins


def record(ledger: Ledger, published: Published) -> list[Event]:
    """Write the rows of what was published without the ledger; harmless a second time."""
    written = []
    heads = ledger.heads()
    for model, pinned in published.pins.models.items():
        event = heads.get(model)
        default = event.head.default if event else None
        if event is None or default is None or pinned.default in (None, default.label):
            continue
        note = next(_notes_of(model, published.note), {})
        now = _slot(pinned, str(pinned.default))
        rows = ledger.history(model)
        behind = [s for s in ways_back(rows) if s.digest not in (now.digest, default.digest)]
        line = Line(
            (now, *behind[: max(1, len(event.head.line.ways_back))]),
            tuple(
                c
                for c in event.head.standing.candidates
                if c.digest != now.digest and all(c.digest != b.digest for b in behind)
            ),
            event.head.pool,
        )
        draft = Draft(
            model=model,
            parent=event.seq,
            kind=Kind.SETTLED,
            action="rollback",
            line=line,
            leaves=default,
            reason=str(note.get("reason") or "break-glass, by hand"),
            evidence={
                "break_glass": {"epoch": published.pins.epoch, "at": note.get("at")},
                "quarantine": note.get("quarantine") is not False,
            },
            correlation_id=published.correlation_id or correlation_id(),
            os_user=note.get("os_user"),
            claimed=note.get("claimed"),
        )
        written.append(ledger.append(draft, above=published.pins.generation))
    return written


def had_plan(published: Published, event: Event) -> bool:
    """Whether the plan at `event` had been applied: what it brings was the default before."""
    stood, brings = event.head.default, replace(event.head, planned=False).default
    if brings is None or (stood is not None and stood.label == brings.label):
        return False
    pinned = published.pins.models.get(event.model)
    left = [note.get("leaves") for note in _notes_of(event.model, published.note)]
    return brings.label == (left[-1] if left else pinned and pinned.default)


def _notes_of(model: str, note: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The notes that speak of `model`, newest first: each one carries those before it."""
    while note is not None:
        if note.get("model") == model:
            yield note
        note = note.get("earlier")


def _slot(pinned: PinnedModel, label: str) -> Slot:
    slot = pinned.slots[label]
    return replace(Slot(version_of(label), slot.digest), workers=slot.workers, device=slot.device)
