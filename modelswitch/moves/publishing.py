"""Making the fleet hold what the ledger says, whoever wrote it, and drafting its rows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from modelswitch import pins as pinning
from modelswitch.effects import correlation_id
from modelswitch.errors import FleetUnreachable, PinsError, Superseded
from modelswitch.fleet.protocol import Fleet
from modelswitch.ledger import Draft, Event, Ledger
from modelswitch.line import Kind, Line, Slot
from modelswitch.moves import breakglass
from modelswitch.moves.holders import new_holder, os_user
from modelswitch.pins import Pins

MERGED = "merged"  # in the evidence of the row that says a plan's pins were applied: its plan's


@dataclass(frozen=True, slots=True)
class Intent:
    """Who asks for a move and why; `evidence` is what was known before."""

    reason: str
    claimed: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


class Publisher:
    """The ledger's pins of one deployment, published into its fleet."""

    def __init__(self, ledger: Ledger, fleet: Fleet, deployment: str) -> None:
        self.ledger = ledger
        self.fleet = fleet
        self.deployment = deployment

    def publish(self) -> Pins:
        """Make the fleet hold what the ledger says now; returns what stands."""
        while True:
            snapshot = self.ledger.snapshot()
            pins = pinning.render(
                snapshot.pinned,
                deployment=self.deployment,
                generation=snapshot.generation,
                epoch=snapshot.epoch,
            )
            standing = self.fleet.publish(pins, correlation_id=correlation_id())
            if standing.epoch != pins.epoch and self._record_break_glass(standing):
                continue
            is_ours = standing.epoch == pins.epoch
            if is_ours and self._record_merge(standing):
                continue
            if is_ours and standing.generation <= pins.generation:
                return standing
            # A newer row was published meanwhile, or somebody else wrote into the fleet.
            if not is_ours or self.ledger.snapshot().generation < standing.generation:
                raise PinsError(
                    f"the published pins have generation {standing.generation}, the ledger is at "
                    f"{pins.generation}: something else wrote them",
                    next='the ledger above them: modelswitch resume --outrank --reason "…"',
                )

    def planned(self, event: Event) -> Pins:
        """The pins that a plan's pull request holds: the ledger's, with the plan carried out."""
        snapshot = self.ledger.snapshot()
        return pinning.render(
            snapshot.pinned | {event.model: replace(event.head, planned=False)},
            deployment=self.deployment,
            generation=event.seq,
            epoch=snapshot.epoch,
        )

    def append(self, draft: Draft) -> Event:
        """Append a row. No row takes back unseen what another model's plan has brought: that it
        was applied is written, and published, first."""
        if any(self.is_applied(event) for event in self.ledger.heads().values()):
            self.publish()
        return self.ledger.append(draft)

    def is_overtaken(self, event: Event) -> bool:
        """Whether the pins of a plan are older by now than what the ledger says."""
        return event.head.planned and self.ledger.snapshot().generation >= event.seq

    def is_applied(self, event: Event) -> bool:
        """Whether the pins of the plan at `event` are what is published now, as far as one sees."""
        if not event.head.planned:
            return False
        try:
            published = self.fleet.published()
        except (PinsError, FleetUnreachable):  # a rollback's row waits for neither
            return False
        return published is not None and self._is_its(event, published.pins)

    def _is_its(self, event: Event, pins: Pins) -> bool:
        is_its = event.head.planned and event.seq == pins.generation
        return is_its and not self.is_overtaken(event) and self.planned(event) == pins

    def applied(self, pins: Pins) -> Event | None:
        """The plan whose pins these are, while nobody has recorded that they are published."""
        heads = self.ledger.heads().values()
        return next((event for event in heads if self._is_its(event, pins)), None)

    def _record_merge(self, standing: Pins) -> bool:
        """Write that a plan's pins were applied; False when no plan's were."""
        event = self.applied(standing)
        if event is not None:
            self._merged(event)
        return event is not None

    def _merged(self, event: Event) -> None:
        draft = self.draft(
            event.model,
            event.seq,
            event.kind,
            event.action,
            # Who planned it is who moved it, whoever happens to see that it was applied.
            Intent(f"its pull request was applied: {event.reason}", event.actor.name),
            line=event.line,
            target=event.target,
            holder=new_holder(),
            evidence={MERGED: event.seq},
        )
        with suppress(Superseded):  # somebody else saw it in the same moment
            self.ledger.append(draft)

    def _record_break_glass(self, standing: Pins) -> bool:
        """Write what was done while the ledger was away; False when it is not a break-glass."""
        published = self.fleet.published()
        if published is None or published.pins != standing:
            return True  # something newer was published meanwhile: look again
        if not standing.is_break_glass:
            return False
        for event in self.ledger.heads().values():
            if breakglass.had_plan(published, event):
                self._merged(event)
        if not breakglass.record(self.ledger, published):
            # Recorded, or of no consequence: the ledger's pins still must outrank its number.
            self._outrank(published.pins.generation, Intent("the ledger is back"))
        return True

    def _outrank(self, generation: int, intent: Intent) -> None:
        heads = self.ledger.heads()
        if heads:
            draft = self.draft(next(iter(heads)), None, Kind.NOTE, "outrank", intent)
            self.ledger.append(draft, above=generation)

    def outrank(self, intent: Intent) -> Pins:
        """Publish the ledger's pins above a generation that something else has published."""
        published = self.fleet.published()
        if published is not None and published.pins.is_break_glass:
            return self.publish()  # recorded: what was left in need does not come back
        if published is not None:
            self._record_merge(published.pins)
        # Servers may have taken more than stands now: the ConfigMap was deleted since, say.
        taken = [report.generation for report in self.fleet.reports()]
        most = max([*taken, published.pins.generation if published else 0])
        if most >= self.ledger.snapshot().generation:
            self._outrank(most, intent)
        return self.publish()

    def draft(
        self,
        model: str,
        parent: int | None,
        kind: Kind,
        action: str,
        intent: Intent,
        *,
        line: Line | None = None,
        target: Line | None = None,
        leaves: Slot | None = None,
        holder: str | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Draft:
        return Draft(
            model=model,
            parent=parent,
            kind=kind,
            action=action,
            line=line,
            target=target,
            leaves=leaves,
            holder=holder,
            reason=intent.reason,
            evidence={**intent.evidence, **(evidence or {})},
            correlation_id=correlation_id(),
            os_user=os_user(),
            claimed=intent.claimed,
        )


def is_merged(event: Event) -> bool:
    """Whether the row says that a plan's pins were applied."""
    return MERGED in event.evidence


def merged_candidate(event: Event) -> Slot | None:
    """The candidate that an applied plan stages: nobody waits for it but who concludes it."""
    target = event.head.target
    if event.kind is not Kind.PREPARED or target is None or not is_merged(event):
        return None
    return next((s for s in target.candidates if s not in event.head.line.slots), None)
