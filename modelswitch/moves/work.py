"""One command's work on one model: its lease, and its rows, each on the one before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelswitch.errors import AtWork, NotProven
from modelswitch.ledger import Event, LeaseKeeper, Ledger
from modelswitch.line import Head, Kind, Line, Slot, named
from modelswitch.moves.holders import is_dead, new_holder, who
from modelswitch.moves.proof import Outcome, ServerOutcome
from modelswitch.moves.publishing import Intent, Publisher


@dataclass(frozen=True, slots=True)
class Moved:
    """A move that was concluded. `event` is the seq of its last row; 0 where nothing was done.

    `plan`: the file whose pins wait for a pull request.
    """

    model: str
    before: Slot | None
    after: Slot | None
    event: int
    generation: int
    servers: tuple[ServerOutcome, ...] = ()
    changed: bool = True
    replaced: tuple[Slot, ...] = ()
    plan: str | None = None


_NOTHING_YET = Head(Kind.SETTLED, Line())


@contextmanager
def lease(ledger: Ledger, model: str) -> Iterator[str]:
    """Hold the model's lease meanwhile; raises AtWork while another command lives."""
    holder = new_holder()
    if not ledger.take_lease(model, holder):
        other = ledger.find_lease(model)
        if other is not None and not is_dead(other.holder):
            raise AtWork(
                f"{model}: another command is at work ({who(other.holder)})",
                next=f"wait for it, or modelswitch resume {model} --now concludes what it does",
            )
        if other is not None:
            ledger.release(other.holder)
        if not ledger.take_lease(model, holder):
            raise AtWork(f"{model}: another command took up the work just now")
    with LeaseKeeper(ledger, holder):
        yield holder


def refuse_at_work(ledger: Ledger, event: Event) -> None:
    """Raise AtWork while the command that wrote `event` lives."""
    other = ledger.find_lease(event.model)
    if other is None or is_dead(other.holder):
        return
    raise AtWork(
        f"{event.model}: {event.actor.name}'s {event.action} is at work ({who(other.holder)})",
        next=f"wait for it, or: modelswitch resume {event.model} --now",
    )


class Work:
    """One command's rows on one model: each stands on the one before."""

    def __init__(self, publisher: Publisher, model: str, holder: str, event: Event | None) -> None:
        self._publisher = publisher
        self.model = model
        self.holder = holder
        self.seq = event.seq if event else 0
        self.head = event.head if event else _NOTHING_YET
        self.generation = 0

    def append(
        self,
        head: Head,
        action: str,
        intent: Intent,
        *,
        evidence: Mapping[str, Any] | None = None,
    ) -> Head:
        """Write the row, then publish it."""
        draft = self._publisher.draft(
            self.model,
            self.seq,
            head.kind,
            action,
            intent,
            line=head.line,
            target=head.target,
            holder=self.holder if head.is_open else None,
            evidence=evidence,
        )
        event = self._publisher.append(draft)
        self.seq, self.head = event.seq, head
        self.generation = self._publisher.publish().generation
        return head

    def plan(self, head: Head, action: str, intent: Intent) -> Path:
        """Write the row that waits for a pull request, then its pins into the working tree."""
        draft = self._publisher.draft(
            self.model, self.seq, head.kind, action, intent, line=head.line, target=head.target
        )
        event = self._publisher.append(draft)
        self.seq, self.head = event.seq, event.head
        return self._publisher.fleet.write(self._publisher.planned(event))

    def finish(self, outcome: Outcome, slot: Slot, action: str, intent: Intent) -> Moved:
        """Settle at the target if it was proven, else where the move came from."""
        opened = self.head
        self.append(opened.settle(done=outcome.ok), action, intent, evidence=outcome.evidence)
        before = opened.line.default
        if not outcome.ok:
            raise not_proven(self.model, slot, action, outcome, opened.line)
        replaced = tuple(s for s in opened.line.candidates if self.head.line.find(s.digest) is None)
        return Moved(
            self.model, before, slot, self.seq, self.generation, outcome.servers, replaced=replaced
        )


def not_proven(model: str, slot: Slot, action: str, outcome: Outcome, line: Line) -> NotProven:
    """What is said of a move that was undone; `line` stands."""
    before = line.default
    name = named(model, slot, before)
    serves = f"{named(model, before, slot)} serves." if before else "Nothing serves, as before."
    verb = {"stage": "staged", "scale": "scaled"}.get(action, "promoted")
    return NotProven(
        f"{name} was not {verb}: {outcome.story}. {serves}",
        next=f"modelswitch logs {model}@{slot.version}",
    )
