"""What follows from a model's rows: the quarantine, the ways back, who served since when.

Pure. Every function takes all rows of one model, notes included, in any order: what came first
is said by their seq.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from modelswitch.ledger.events import Actor, Event
from modelswitch.line import Kind, Slot


@dataclass(frozen=True, slots=True)
class Entry:
    """One rollback's quarantine of the slot it left.

    `whole_version`: every archive of that version, but those whose digest was `lifted` since;
    otherwise only this digest.
    """

    slot: Slot
    seq: int
    actor: Actor
    reason: str
    whole_version: bool
    lifted: frozenset[str] = frozenset()

    def ref(self, model: str) -> str:
        """What is quarantined: `digits@3`, or one archive of it, `digits@3:ab12cd34`."""
        name = f"{model}@{self.slot.version}"
        return name if self.whole_version else f"{name}:{self.slot.digest8}"

    def covers(self, slot: Slot) -> bool:
        if self.whole_version and slot.version == self.slot.version:
            return slot.digest not in self.lifted
        return slot.digest == self.slot.digest


def quarantine(events: Iterable[Event]) -> tuple[Entry, ...]:
    """What may not be promoted, oldest first.

    A rollback quarantines what it leaves, unless its evidence says `"quarantine": false`: the
    whole version when another version came instead, only the archive when it was another recipe
    of the same. A later note with action `lift` ends it for the version its evidence names, or
    for one `digest` of it.
    """
    entries: list[Entry] = []
    for event in _oldest_first(events):
        if event.kind is Kind.NOTE and event.action == "lift":
            entries = _lift(entries, event)
        elif _quarantines(event) and event.leaves is not None:
            default = event.head.default
            entries.append(
                Entry(
                    slot=event.leaves,
                    seq=event.seq,
                    actor=event.actor,
                    reason=event.reason,
                    whole_version=default is None or default.version != event.leaves.version,
                )
            )
    return tuple(entries)


def liftable(entries: Iterable[Entry], version: str, digest: str | None) -> bool:
    """Whether a lift of this version, or of one archive of it, would end anything."""
    return any(
        entry.slot.version == version and (digest is None or entry.covers(Slot(version, digest)))
        for entry in entries
    )


def _quarantines(event: Event) -> bool:
    return (
        event.kind is Kind.SETTLED
        and event.action == "rollback"
        and event.evidence.get("quarantine") is not False
    )


def _lift(entries: list[Entry], lift: Event) -> list[Entry]:
    version, digest = lift.evidence.get("version"), lift.evidence.get("digest")
    kept = []
    for entry in entries:
        if entry.slot.version != version:
            kept.append(entry)
        elif digest is None:
            continue
        elif entry.whole_version:
            kept.append(replace(entry, lifted=entry.lifted | {digest}))
        elif entry.slot.digest != digest:
            kept.append(entry)
    return kept


def find_quarantine(entries: Iterable[Entry], slot: Slot) -> Entry | None:
    """The newest entry that keeps this slot from being promoted."""
    return max((e for e in entries if e.covers(slot)), key=lambda e: e.seq, default=None)


def is_quarantined(entries: Iterable[Entry], slot: Slot) -> bool:
    return find_quarantine(entries, slot) is not None


def ways_back(events: Iterable[Event]) -> tuple[Slot, ...]:
    """What served in settled lines and may serve again, most recently served first.

    Each digest once, with the workers it last had; without what is quarantined, what was
    retired since it last served (a `retire` row's evidence: `{"retired": [digests]}`), and what
    is the default now. A slot that stood behind a default but never was it comes last.
    """
    rows = _oldest_first(events)
    entries = quarantine(rows)
    found: dict[str, tuple[int, int, int, Slot]] = {}
    retired: set[str] = set()
    for event in rows:
        if event.kind is Kind.SETTLED and event.line is not None:
            for place, slot in enumerate(event.line.serving):
                served = event.seq if place == 0 else found.get(slot.digest, (0,))[0]
                found[slot.digest] = (served, event.seq, -place, slot)
            if event.line.default is not None:
                retired.discard(event.line.default.digest)
        if event.action == "retire" and event.kind in (Kind.SETTLED, Kind.NOTE):
            retired.update(event.evidence.get("retired", ()))
    newest = _heads(rows)[-1:]
    default = newest[0].head.default if newest else None
    if default is not None:
        found.pop(default.digest, None)
    return tuple(
        slot
        for *_, slot in sorted(found.values(), key=lambda f: f[:3], reverse=True)
        if slot.digest not in retired and not is_quarantined(entries, slot)
    )


def served_versions(events: Iterable[Event]) -> set[str]:
    """The versions that any settled line's serving held: Archived at least."""
    return {
        slot.version
        for event in events
        if event.kind is Kind.SETTLED and event.line is not None
        for slot in event.line.serving
    }


def since(events: Iterable[Event]) -> Event | None:
    """The row with which the present default began to serve; None if nothing serves.

    The row that moved the pointer, not the later one that says it was proven.
    """
    began: Event | None = None
    digest: str | None = None
    for event in _heads(_oldest_first(events)):
        default = event.head.default
        now = default.digest if default else None
        if now != digest:
            began, digest = event, now
    return began if digest else None


def _oldest_first(events: Iterable[Event]) -> list[Event]:
    return sorted(events, key=lambda e: e.seq)


def _heads(rows: list[Event]) -> list[Event]:
    return [e for e in rows if e.kind is not Kind.NOTE]
