"""What a move would do: for `--dry-run`, and for the question before a rollback.

It reads the ledger and the reports, refuses what the move would refuse, and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from modelswitch.errors import NoLongerServes, NothingToGoBackTo, Refused
from modelswitch.ledger import ways_back
from modelswitch.line import Head, Kind, Line, Slot, Stage, named, version_among, version_of
from modelswitch.moves.moves import Fits, Moves
from modelswitch.moves.refusals import in_pool, refuse_quarantined, refuse_resizing

_UNBUILT = "0" * 8  # stands for the digest of an archive that is not built yet


@dataclass(frozen=True, slots=True)
class Preview:
    """Labels before and after. `warm`: every server could switch at once.

    `changes` is False when there is nothing to do. `retired`: what would be unloaded. `notes` say
    what would come first.
    """

    model: str
    action: str
    before: str | None
    after: str | None
    serving: tuple[str, ...]
    candidates: tuple[str, ...]
    servers: tuple[str, ...] = ()
    warm: bool = True
    changes: bool = True
    leaves: str | None = None  # what a rollback leaves
    retired: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def name(self, label: str | None) -> str:
        """`digits@3`; of two archives of version 3, `digits@3 (ab12cd34)`."""
        if label is None:
            return "nothing"
        labels = (self.before, self.after, *self.serving, *self.candidates, *self.retired)
        told = version_among(label, *(other for other in labels if other))
        return f"{self.model}@{told.replace(f'({_UNBUILT})', '(to be built)')}"

    @property
    def lines(self) -> list[str]:
        """For people."""
        if not self.changes:
            return [f"{self.model}: nothing to do", *self.notes]
        serving = [self.name(label) for label in self.serving]
        waits = [self.name(label) for label in self.candidates]
        what = f"{self.name(self.before)} → {self.name(self.after)}"
        if self.retired:
            what = ", ".join(map(self.name, self.retired))
        return [
            f"{self.model}: would {self.action}: {what} on "
            f"{', '.join(self.servers) or 'no server'}",
            f"  Production: {serving[0] if serving else 'nothing'}"
            f" · ways back: {', '.join(serving[1:]) or 'none'}"
            f" · Staging: {', '.join(waits) or 'none'}",
            f"  {self._how}",
            *(f"  {note}" for note in self.notes),
        ]

    @property
    def _how(self) -> str:
        if self.retired:
            return (
                f"unloaded; {'no pointer moves' if self.serving else 'nothing of it answers then'}"
            )
        return "warm everywhere: one pointer moves" if self.warm else "to be loaded first"

    def to_json(self) -> dict[str, Any]:
        return {
            "changes": self.changes,
            "model": self.model,
            "action": self.action,
            "from": version_of(self.before) if self.before else None,
            "to": version_of(self.after) if self.after else None,
            "serving": [version_of(label) for label in self.serving],
            "candidates": [version_of(label) for label in self.candidates],
            "servers": list(self.servers),
            "warm": self.warm,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Sizing:
    """What `scale` would do: `slot` as it is, and its workers after."""

    model: str
    slot: Slot
    workers: int
    servers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    beside: tuple[Slot, ...] = ()  # the model's others

    @property
    def changes(self) -> bool:
        return self.workers != self.slot.workers

    @property
    def lines(self) -> list[str]:
        """For people."""
        name = named(self.model, self.slot, *self.beside)
        servers = ", ".join(self.servers) or "no server"
        if not self.changes:
            return [f"{name}: nothing to do", *self.notes]
        first = f"{name}: would go from {self.slot.workers} to {self.workers} workers on {servers}"
        return [first, *(f"  {note}" for note in self.notes)]

    def to_json(self) -> dict[str, Any]:
        return {
            "changes": self.changes,
            "model": self.model,
            "version": self.slot.version,
            "label": self.slot.label,
            "from": self.slot.workers,
            "to": self.workers,
            "servers": list(self.servers),
            "notes": list(self.notes),
        }


class Previews:
    """One preview a move."""

    def __init__(self, moves: Moves) -> None:
        self.moves = moves
        self.ledger = moves.ledger

    def promote(
        self,
        model: str,
        slot: Slot,
        to: Stage,
        *,
        built: bool,
        pool: str | None = None,
        workers: int | None = None,
        fits: Fits | None = None,
    ) -> Preview:
        """`slot` may stand for an archive that is not built yet."""
        head, notes = self._head(model)
        line, limits = in_pool(model, head.line, pool), self.moves.settings
        refuse_quarantined(self.ledger.history(model), model, slot)
        is_default = line.default is not None and line.default.digest == slot.digest
        if to is Stage.PRODUCTION:
            target = line
            if not is_default:
                target = line.promoted(slot, ways_back=limits.ways_back, workers=workers)
        elif line.find(slot.digest) in line.serving:
            name = named(model, slot, *line.slots)
            raise Refused(f"{name} is loaded already: it serves, or is a way back")
        elif slot in line.candidates:
            target = line
        else:
            slot = replace(slot, workers=workers or slot.workers)
            target = line.staged(slot, max_candidates=limits.max_candidates)
        pool = slot.pool or target.pool
        if target == line:
            refuse_resizing(model, line.find(slot.digest) or slot, workers)
        else:
            self.moves.proof.refuse_silent(model, slot, pool)
            if fits:
                fits(Head(Kind.PREPARED, line, target))
        if not built:
            notes = (*notes, f"the archive of {model}@{slot.version} would be built first")
        warm = built and self.moves.proof.is_warm(model, target.find(slot.digest) or slot, pool)
        return self._preview(model, f"promote to {to}", line, target, slot, warm, notes)

    def scale(self, model: str, slot: Slot, workers: int, *, fits: Fits) -> Sizing:
        head, notes = self._head(model)
        line = head.line
        there = line.find(slot.digest) or slot
        pool = there.pool or line.pool
        if workers > there.workers:
            self.moves.proof.refuse_silent(model, there, pool, verb="scaled")
            fits(Head(Kind.PREPARED, line, line.scaled(there, workers)))
        return Sizing(model, there, workers, self._servers(pool), notes, line.slots)

    def rollback(self, model: str, leaves: str | None = None) -> Preview:
        """Raises NothingToGoBackTo, and NoLongerServes if `leaves` does not serve now."""
        event = self.ledger.head(model)
        head = event.head if event else None
        if event is not None and head is not None and self.moves.publisher.is_applied(event):
            head = replace(head, planned=False)
        left = self.moves.find_left(event) if event else None
        if event and head and left and left.is_named(leaves or left.label):
            slot, note = head.line.serving[0], f"row {event.seq} decided it, and is not published"
            warm = self.moves.proof.is_warm(model, slot, head.pool)
            before = replace(head.line, serving=(left,), candidates=())
            preview = self._preview(model, "roll back", before, head.line, slot, warm, (note,))
            return replace(preview, leaves=left.label)
        shown = head.default if head else None
        if event is None or head is None or shown is None:
            raise NothingToGoBackTo(
                f"{model}: no version serves, so there is nothing to leave",
                next="what there is: modelswitch models",
            )
        if leaves is not None and not shown.is_named(leaves):
            raise self.moves.no_longer(model, leaves, event)
        target = self.moves.gone_back(model, head, ways_back(self.ledger.history(model)))
        slot = target.serving[0]
        warm = self.moves.proof.is_warm(model, slot, target.pool)
        standing = head.standing
        preview = self._preview(model, "roll back", standing, target, slot, warm, ())
        return replace(preview, leaves=shown.label)

    def break_glass(self, model: str, leaves: str | None = None) -> Preview:
        """The same by the published pins alone."""
        published = self.moves.fleet.published()
        pinned = published.pins.models.get(model) if published else None
        if pinned is None or pinned.default is None or not pinned.back:
            raise NothingToGoBackTo(f"the published pins name no way back for {model}")
        if leaves not in (None, version_of(pinned.default), pinned.default):
            raise NoLongerServes(f"{model}@{leaves} does not serve by the published pins")
        return Preview(
            model=model,
            action="roll back",
            before=pinned.default,
            leaves=pinned.default,
            after=pinned.back[0],
            serving=pinned.back,
            candidates=(),
            servers=self._servers(pinned.pool),
            notes=("by the published pins, without asking the ledger",),
        )

    def retire(self, model: str, slot: Slot | None) -> Preview:
        head, notes = self._head(model)
        line = head.line
        if slot is not None and line.default == slot:
            raise Refused(f"{model}@{slot.version} is what serves and cannot be retired")
        target = Line() if slot is None else line.retired(slot)
        preview = self._preview(model, "retire", line, target, target.default, True, notes)
        gone = tuple(s.label for s in line.slots if target.find(s.digest) is None)
        return replace(preview, retired=gone)

    def resume(self, model: str | None = None) -> list[Preview]:
        """What is open. A committed move ends at its target only if every server proves it."""
        found = []
        for name, event in sorted(self.ledger.heads().items()):
            if event.head.is_open and model in (None, name):
                head = event.head
                ends = head.standing
                note = f"row {event.seq} is {event.kind}: {event.actor.name}'s {event.action}"
                preview = self._preview(name, "conclude", head.line, ends, None, True, (note,))
                found.append(replace(preview, changes=True))
        return found

    def _servers(self, pool: str) -> tuple[str, ...]:
        return tuple(report.server for report in self.moves.proof.roster(pool))

    def _head(self, model: str) -> tuple[Head, tuple[str, ...]]:
        event = self.ledger.head(model)
        if event is None:
            return Head(Kind.SETTLED, Line()), ()
        if not event.head.is_open:
            return event.head, ()
        if event.head.planned:
            first = f"row {event.seq}, a plan, must be applied or given up first"
        else:
            first = f"row {event.seq} is open ({event.action}) and is concluded first"
        return event.head, (first,)

    def _preview(
        self,
        model: str,
        action: str,
        line: Line,
        target: Line,
        after: Slot | None,
        warm: bool,
        notes: tuple[str, ...],
    ) -> Preview:
        after = after or target.default
        return Preview(
            model=model,
            action=action,
            before=line.default.label if line.default else None,
            after=after.label if after else None,
            serving=tuple(slot.label for slot in target.serving),
            candidates=tuple(slot.label for slot in target.candidates),
            servers=self._servers((after.pool if after else None) or target.pool),
            warm=warm,
            changes=line != target,
            notes=notes,
        )
