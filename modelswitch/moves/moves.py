"""The moves of a model's line: write the row, then publish, then wait for what servers say.

Every move first publishes what the ledger says, whoever wrote it. A row stands before its
effects, so whatever a killed command leaves is an open head that `conclude` settles. Safety is
the ledger's compare-and-swap; the lease only tells others who is at work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from modelswitch.errors import (
    Behind,
    FleetUnreachable,
    ModelSwitchError,
    NoLongerServes,
    NothingToGoBackTo,
    PinsError,
    Refused,
    Superseded,
)
from modelswitch.fleet.protocol import Fleet
from modelswitch.ledger import Event, Ledger, liftable, quarantine, ways_back
from modelswitch.line import Head, Kind, Line, Slot, named, ref_to
from modelswitch.moves import breakglass
from modelswitch.moves.announcer import Announcer
from modelswitch.moves.holders import os_user
from modelswitch.moves.proof import Outcome, Proof
from modelswitch.moves.publishing import Intent, Publisher, is_merged, merged_candidate
from modelswitch.moves.refusals import (
    in_pool,
    refuse_cold,
    refuse_quarantined,
    refuse_resizing,
    waits,
)
from modelswitch.moves.work import Moved, Work, lease, not_proven, refuse_at_work
from modelswitch.pins import Pins
from modelswitch.settings import Settings

__all__ = ["Intent", "Moved", "Moves"]

# Called with the head a move is about to write; raises Refused where the servers cannot hold it.
Fits = Callable[[Head], None]


class Moves:
    """Stage, promote, roll back, retire, conclude: one deployment's line moves."""

    def __init__(self, ledger: Ledger, fleet: Fleet, settings: Settings) -> None:
        self.ledger = ledger
        self.fleet = fleet
        self.settings = settings
        self.publisher = Publisher(ledger, fleet, settings.deployment)
        self.proof = Proof(fleet, settings.timeouts)
        self.announcer = Announcer(ledger, fleet)

    def publish(self) -> Pins:
        """Make the fleet hold what the ledger says now; returns what stands."""
        return self.publisher.publish()

    def outrank(self, intent: Intent) -> Pins:
        """Publish the ledger's pins above a generation that something else has published."""
        return self.publisher.outrank(intent)

    def stage(
        self,
        model: str,
        slot: Slot,
        intent: Intent,
        *,
        pool: str | None = None,
        plan: bool = False,
        workers: int | None = None,
        fits: Fits | None = None,
    ) -> Moved:
        """Load a candidate on every server; moves no traffic. Raises NotProven when undone.

        `pool` names the model's, where it has none yet. `slot.pool` keeps the candidate to the
        servers of another one. `plan`: written for a pull request, and no more. `workers`: on
        each server, else one. `fits` may refuse the head before it is written.
        """
        if plan and (again := self._written_again(model, slot, "stage")):
            return again
        with self._at_work(model) as work:
            head = work.head
            refuse_quarantined(self.ledger.history(model), model, slot)
            if head.line.default and head.line.default.digest == slot.digest:
                raise Refused(f"{named(model, slot, *head.line.slots)} is already in Production")
            if any(s.digest == slot.digest for s in head.line.ways_back):
                raise Refused(
                    f"{named(model, slot, *head.line.slots)} is loaded already, as a way back",
                    next=f"modelswitch promote {ref_to(model, slot, *head.line.slots)} "
                    "--to production",
                )
            line = in_pool(model, head.line, pool)
            there = line.find(slot.digest)
            if there is not None and there.pool == slot.pool:
                refuse_resizing(model, there, workers)
                return self._unchanged(model, head, there)
            slot = replace(slot, workers=workers or slot.workers)
            home = slot.pool or line.pool
            self.proof.refuse_silent(model, slot, home)
            target = line.staged(slot, max_candidates=self.settings.max_candidates)
            if fits:
                fits(head.prepare(target))
            if plan:
                return self._planned(work, head.prepare(target), slot, "stage", intent)
            work.append(head.prepare(target), "stage", intent)
            outcome = self.proof.wait_warm(model, slot, home)
            return work.finish(outcome, slot, "stage", intent)

    def promote(
        self,
        model: str,
        slot: Slot,
        intent: Intent,
        *,
        action: str = "promote",
        pool: str | None = None,
        plan: bool = False,
        workers: int | None = None,
        fits: Fits | None = None,
    ) -> Moved:
        """Make `slot` what answers everywhere; raises NotProven when it was undone.

        `pool`, `plan` and `fits` as for `stage`; a plan is refused unless every server has it
        warm. `workers`: else as many as what it replaces has.
        """
        if plan and (again := self._written_again(model, slot, action)):
            return again
        with self._at_work(model) as work:
            head = work.head
            refuse_quarantined(self.ledger.history(model), model, slot)
            if head.line.default and head.line.default.digest == slot.digest:
                refuse_resizing(model, head.line.default, workers)
                return self._unchanged(model, head, head.line.default)
            line = in_pool(model, head.line, pool)
            target = line.promoted(slot, ways_back=self.settings.ways_back, workers=workers)
            wanted, home = target.serving[0], target.pool
            if fits:
                fits(head.commit(target))
            self.proof.refuse_silent(model, slot, home)
            warm = self.proof.is_warm(model, wanted, home)
            if plan:
                # What no pin names may still be warm while it is being unloaded.
                if not warm or line.find(slot.digest) is None:
                    raise refuse_cold(model, slot)
                return self._planned(work, head.commit(target), wanted, action, intent)
            if not warm:
                head = work.append(head.prepare(target), action, intent)
                outcome = self.proof.wait_warm(model, wanted, home)
                if not outcome.ok:
                    return work.finish(outcome, wanted, action, intent)
                head = work.append(head.commit(), action, intent)
            else:
                head = work.append(head.commit(target), action, intent)
            outcome = self.proof.wait_proven(model, wanted, home)
            return work.finish(outcome, wanted, action, intent)

    def scale(
        self, model: str, slot: Slot, workers: int, intent: Intent, *, fits: Fits | None = None
    ) -> Moved:
        """Change the workers of a loaded slot on every server of its pool.

        More are started before the line says so; raises NotProven when a server could not, and
        they end again. Fewer need one row, as nothing can fail for it; raises Behind where a
        server has not come down yet. `before` and `after` are the slot with its workers.
        """
        with self._at_work(model) as work:
            head = work.head
            there = head.line.find(slot.digest)
            if there is None:
                raise Refused(
                    f"{model}@{slot.version} is not loaded any more",
                    next=f"modelswitch history {model}",
                )
            if there.workers == workers:
                moved = self._unchanged(model, head, there)
                return replace(moved, before=there)
            target = head.line.scaled(there, workers)
            wanted, home = replace(there, workers=workers), there.pool or head.line.pool
            if workers > there.workers:
                self.proof.refuse_silent(model, there, home, verb="scaled")
                if fits:
                    fits(head.prepare(target))
                work.append(head.prepare(target), "scale", intent)
                outcome = self.proof.wait_warm(model, wanted, home)
                moved = work.finish(outcome, there, "scale", intent)
                return replace(moved, before=there, after=wanted)
            work.append(Head(Kind.SETTLED, target), "scale", intent)
            outcome = self.proof.wait_fewer(model, wanted, home)
            if not outcome.ok:
                raise Behind(
                    f"{model}@{there.version} goes down to {workers} of {there.workers} workers "
                    f"(row {work.seq}). Behind: {outcome.story}. What is behind follows.",
                    next="modelswitch status",
                )
            return Moved(model, there, wanted, work.seq, work.generation, outcome.servers)

    def _planned(self, work: Work, head: Head, slot: Slot, action: str, intent: Intent) -> Moved:
        """Write the row that waits, and its pins into the working tree."""
        for model, event in self.ledger.heads().items():
            if event.head.planned and not self.publisher.is_overtaken(event):
                raise waits(model, event)
        file = work.plan(head, action, intent)
        before = head.line.default
        return Moved(work.model, before, slot, work.seq, work.seq, changed=True, plan=str(file))

    def _written_again(self, model: str, slot: Slot, action: str) -> Moved | None:
        """The same plan a second time: its pins are written once more."""
        event = self.ledger.head(model)
        if event is None or not event.head.planned or event.action != action:
            return None
        if self.publisher.is_overtaken(event):
            return None
        target, before = event.head.target, event.head.line.default
        if target is None or target.find(slot.digest) is None:
            return None
        file = self.fleet.write(self.publisher.planned(event))
        return Moved(model, before, slot, event.seq, event.seq, changed=False, plan=str(file))

    def rollback(
        self, model: str, intent: Intent, *, leaves: str | None = None, quarantines: bool = True
    ) -> Moved:
        """Go to the nearest way back with one row, whatever stands open.

        `leaves` is what the user was shown, best its label: a version may have two archives.
        Raises NoLongerServes if that does not serve any more, Behind when a server has not
        followed yet, FleetUnreachable when none is live; the row stands either way.
        """
        event = self.ledger.head(model)
        if event is not None and self.publisher.is_applied(event):
            self.publish()  # records it: what serves is what the pull request has brought
            event = self.ledger.head(model)
        left = self.find_left(event) if event is not None else None
        if event is not None and left is not None and left.is_named(leaves or left.label):
            return self._go_back(left, event)
        shown = event.head.default if event else None
        if event is None or shown is None:
            raise NothingToGoBackTo(
                f"{model}: no version serves, so there is nothing to leave",
                next="what there is: modelswitch models",
            )
        if leaves is not None and not shown.is_named(leaves):
            raise self.no_longer(model, leaves, event)
        while True:
            rows = self.ledger.history(model)
            new = self.gone_back(model, event.head, ways_back(rows))
            draft = self.publisher.draft(
                model,
                event.seq,
                Kind.SETTLED,
                "rollback",
                intent,
                line=new,
                leaves=shown,
                evidence={} if quarantines else {"quarantine": False},
            )
            try:
                written = self.publisher.append(draft)
                break
            except Superseded:
                event = self.ledger.head(model)
                now = event.head.default if event else None
                if event is None or now is None or now.digest != shown.digest:
                    raise self.no_longer(model, shown.version, event) from None
        return self._go_back(shown, written)

    def _go_back(self, left: Slot, written: Event) -> Moved:
        """Publish a rollback's row, and wait for every server."""
        model, new = written.model, written.head.line
        wanted = new.serving[0]
        try:
            pins = self.publish()
        except ModelSwitchError as error:
            # Written, it is done as far as the ledger goes: the same again finishes it.
            error.message = (
                f"{model} goes back to {model}@{wanted.version} (row {written.seq}), which could "
                f"not be published yet: {error.message}"
            )
            error.args = (error.message,)
            again = "modelswitch resume"
            error.next = f"{error.next}; then: {again}" if error.next else again
            raise
        outcome = self.proof.wait_proven(model, wanted, new.pool, everyone=True)
        if not outcome.ok:
            self._raise_behind(model, left, wanted, outcome)
        return Moved(model, left, wanted, written.seq, pins.generation, outcome.servers)

    def find_left(self, event: Event) -> Slot | None:
        """What a rollback has left by its row, while it is still published as what serves.

        Its command was killed in between: the same again means that row, and not one further.
        """
        left = event.leaves
        if event.action != "rollback" or event.head.is_open or left is None:
            return None
        try:
            published = self.fleet.published()
        except (PinsError, FleetUnreachable):
            return None
        if published is None or published.pins.is_break_glass:
            return None
        pinned = published.pins.models.get(event.model)
        is_behind = published.pins.generation < event.generation
        return left if is_behind and pinned and pinned.default == left.label else None

    def break_glass(
        self, model: str, intent: Intent, *, leaves: str | None = None, quarantines: bool = True
    ) -> Moved:
        """A rollback by the published pins alone; the ledger hears of it when it is back."""
        note = {
            "reason": intent.reason,
            "os_user": os_user(),
            "claimed": intent.claimed,
            "quarantine": quarantines,
        }
        before, wanted, pins = breakglass.break_glass(self.fleet, model, leaves=leaves, note=note)
        home = pins.models[model].pool
        outcome = self.proof.wait_proven(model, wanted, home, everyone=True)
        if not outcome.ok:
            self._raise_behind(model, before, wanted, outcome)
        return Moved(model, before, wanted, 0, pins.generation, outcome.servers)

    def retire(self, model: str, slot: Slot | None, intent: Intent) -> Moved:
        """Unload a candidate or a way back; with `slot` None the whole model."""
        with self._at_work(model) as work:
            line = work.head.line
            gone = line.slots if slot is None else (slot,)
            try:
                left = Line() if slot is None else line.retired(slot)
            except ValueError:
                raise Refused(
                    f"{model}@{slot.version if slot else ''} is what serves and cannot be retired",
                    next=f"promote another version or roll back first; or take the whole model out "
                    f"of service: modelswitch retire {model}",
                ) from None
            if left == line:
                return self._unchanged(model, work.head, slot)
            evidence = {"retired": [s.digest for s in gone]}
            work.append(Head(Kind.SETTLED, left), "retire", intent, evidence=evidence)
            return Moved(model, line.default, left.default, work.seq, work.generation)

    def lift(self, model: str, version: str, intent: Intent, *, digest: str | None = None) -> Event:
        """End the quarantine of a version, or of one archive; raises Refused when it is in none."""
        if not liftable(quarantine(self.ledger.history(model)), version, digest):
            name = f"{model}@{version}"
            if digest is not None:
                name += f":{Slot(version, digest).digest8}"
            raise Refused(f"{name} is not quarantined", next="modelswitch quarantine list")
        evidence = {"version": version} | ({"digest": digest} if digest else {})
        return self.ledger.append(
            self.publisher.draft(model, None, Kind.NOTE, "lift", intent, evidence=evidence)
        )

    def conclude(
        self, model: str, intent: Intent, *, now: bool = False, give_up: bool = False
    ) -> Moved | None:
        """Settle what an ended command, or a pull request, left open; None when nothing was open.

        Raises AtWork while its command lives, unless `now`; WaitsForApproval for a plan that is
        not applied yet, unless `give_up`; NotProven for one that was, and was undone.
        """
        event = self.ledger.head(model)
        if event is None or not event.head.is_open:
            return None
        if not now:
            refuse_at_work(self.ledger, event)
        self.publish()
        event = self.ledger.head(model)  # publishing may have found a plan applied
        if event is None or not event.head.is_open:
            return None
        head = event.head
        why = f"concludes the {event.action} of row {event.seq}: {event.reason}"
        outcome = Outcome(ok=False)
        slot = head.target.default if head.target else None
        if head.planned:
            how = "was given up" if give_up else self._why_over(event)
            if how is None:
                raise waits(model, event)
            why = f"the plan of row {event.seq} {how}: {event.reason}"
        elif head.kind is Kind.COMMITTED and slot is not None:
            outcome = self.proof.wait_proven(model, slot, head.pool)
        elif (slot := merged_candidate(event)) is not None:
            outcome = self.proof.wait_warm(model, slot, slot.pool or head.pool)
        done = head.settle(done=outcome.ok)
        draft = self.publisher.draft(
            model,
            event.seq,
            Kind.SETTLED,
            "resume",
            Intent(why, intent.claimed, intent.evidence),
            line=done.line,
            evidence=outcome.evidence,
        )
        written = self.publisher.append(draft)
        pins = self.publish()
        if head.planned:
            self.fleet.write(pins)
        elif is_merged(event) and not outcome.ok and slot is not None:
            raise not_proven(model, slot, event.action, outcome, head.line)
        return Moved(
            model,
            head.line.default,
            done.line.default,
            written.seq,
            pins.generation,
            outcome.servers,
        )

    def _why_over(self, event: Event) -> str | None:
        """Why a plan's pull request brings nothing any more; None while it waits."""
        if self.publisher.is_overtaken(event):
            return "was overtaken by a later move"
        brought = self.publisher.planned(event).sha256
        taken = any(report.pins_sha256 == brought for report in self.fleet.reports())
        if taken and not self.publisher.is_applied(event):
            # Servers that have taken it refuse the older pins: only a newer row unites them.
            return "was applied, and older pins were put over it"
        return None

    @contextmanager
    def _at_work(self, model: str) -> Iterator[Work]:
        with lease(self.ledger, model) as holder:
            while True:
                self.publish()  # first: it also records what was done without the ledger
                event = self.ledger.head(model)
                if event is None or not event.head.is_open:
                    break
                # Lost to whoever moves it in the same moment, a zombie perhaps: look again.
                with suppress(Superseded):
                    self.conclude(model, Intent("the next command found it open"), now=True)
            yield Work(self.publisher, model, holder, event)

    def _unchanged(self, model: str, head: Head, slot: Slot | None) -> Moved:
        return Moved(model, head.default, slot, 0, self.ledger.snapshot().generation, changed=False)

    def gone_back(self, model: str, head: Head, history: tuple[Slot, ...]) -> Line:
        """The line of a rollback from `head`; raises NothingToGoBackTo."""
        try:
            return head.roll_back(history, ways_back=self.settings.ways_back).line
        except ValueError as error:
            serves = f"{model}@{head.default.version}" if head.default else model
            raise NothingToGoBackTo(
                f"{serves} has no way back: nothing served before it that may serve again",
                next=f"promote another version of {model}, or take it out of service: "
                f"modelswitch retire {model}",
            ) from error

    def no_longer(self, model: str, version: str, event: Event | None) -> NoLongerServes:
        now = event.head.default if event else None
        what = f"{model}@{now.version} does" if now else "nothing does"
        by = f", by {event.actor.name}'s {event.action} (row {event.seq})" if event else ""
        return NoLongerServes(
            f"{model}@{version} no longer serves, {what}{by}; nothing was rolled back",
            next=f"modelswitch history {model}",
        )

    def _raise_behind(self, model: str, left: Slot, wanted: Slot, outcome: Outcome) -> None:
        there = [s.name for s in outcome.servers if s.state == "proven"]
        behind = [s for s in outcome.servers if s.state != "proven"]
        story = "; ".join(f"server {s.name}: {s.why}" for s in behind)
        if not outcome.servers or all(s.state == "down" for s in outcome.servers):
            raise FleetUnreachable(
                f"{model} is pinned to {named(model, wanted, left)}, but no server is live; each "
                "follows on its return",
                next="modelswitch status",
            )
        done = f"{', '.join(there)} answer with it" if there else "no server answers with it yet"
        raise Behind(
            f"{model} was rolled back to {named(model, wanted, left)}: {done}. Behind: {story}. "
            f"What is behind keeps answering {named(model, left, wanted)} and follows when it can.",
            next="modelswitch status",
        )
