"""The moves of a model's line: write the row, then publish, then wait for what servers say.

Every move first publishes what the ledger says, whoever wrote it. A row stands before its
effects, so whatever a killed command leaves is an open head that `conclude` settles. Safety is
the ledger's compare-and-swap; the lease only tells others who is at work.
"""

from __future__ import annotations

import getpass
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from modelswitch import pins as pinning
from modelswitch.effects import correlation_id
from modelswitch.errors import (
    AtWork,
    Behind,
    FleetUnreachable,
    NoLongerServes,
    NothingToGoBackTo,
    NotProven,
    PinsError,
    Quarantined,
    Refused,
    Superseded,
)
from modelswitch.fleet.protocol import Fleet
from modelswitch.ledger import (
    Draft,
    Event,
    LeaseKeeper,
    Ledger,
    find_quarantine,
    quarantine,
    ways_back,
)
from modelswitch.line import Head, Kind, Line, Slot
from modelswitch.pins import Pins
from modelswitch.proof import Outcome, Proof, ServerOutcome
from modelswitch.settings import Settings


@dataclass(frozen=True, slots=True)
class Moved:
    """A move that was concluded. `event` is the seq of its last row; 0 where nothing was done."""

    model: str
    before: Slot | None
    after: Slot | None
    event: int
    generation: int
    servers: tuple[ServerOutcome, ...] = ()
    changed: bool = True
    replaced: tuple[Slot, ...] = ()


@dataclass(frozen=True, slots=True)
class Intent:
    """Who asks for a move and why; `evidence` is what was known before."""

    reason: str
    claimed: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


_SETTLED_NOTHING = Head(Kind.SETTLED, Line())


class Moves:
    """Stage, promote, roll back, retire, conclude: one deployment's line moves."""

    def __init__(self, ledger: Ledger, fleet: Fleet, settings: Settings) -> None:
        self.ledger = ledger
        self.fleet = fleet
        self.settings = settings
        self.proof = Proof(fleet, settings.timeouts)

    # Publishing

    def publish(self) -> Pins:
        """Make the fleet hold what the ledger says now; returns what stands."""
        while True:
            snapshot = self.ledger.snapshot()
            heads = {model: event.head for model, event in snapshot.heads.items()}
            pins = pinning.render(
                heads,
                deployment=self.settings.deployment,
                generation=snapshot.generation,
                epoch=snapshot.epoch,
            )
            standing = self.fleet.publish(pins, correlation_id=correlation_id())
            if standing.generation <= pins.generation:
                return standing
            # A newer row was published meanwhile, or somebody else wrote into the fleet.
            if self.ledger.snapshot().generation < standing.generation:
                raise PinsError(
                    f"the published pins have generation {standing.generation}, the ledger is at "
                    f"{pins.generation}: something else wrote them",
                    next='the ledger above them: modelswitch resume --outrank --reason "…"',
                )

    def outrank(self, intent: Intent) -> Pins:
        """Publish the ledger's pins above a generation that something else has published."""
        published = self.fleet.published()
        snapshot = self.ledger.snapshot()
        if published and published.pins.generation > snapshot.generation and snapshot.heads:
            model = next(iter(snapshot.heads))
            draft = self._draft(model, None, Kind.NOTE, "outrank", intent)
            self.ledger.append(draft, above=published.pins.generation)
        return self.publish()

    # The moves

    def stage(self, model: str, slot: Slot, intent: Intent) -> Moved:
        """Load a candidate on every server; moves no traffic. Raises NotProven when undone."""
        with self._at_work(model) as work:
            head = work.head
            self.refuse_quarantined(model, slot)
            if head.line.default and head.line.default.digest == slot.digest:
                raise Refused(f"{model}@{slot.version} is already in Production")
            if any(s.digest == slot.digest for s in head.line.ways_back):
                raise Refused(
                    f"{model}@{slot.version} is loaded already, as a way back",
                    next=f"modelswitch promote {model}@{slot.version} --to production",
                )
            if any(s.digest == slot.digest for s in head.line.candidates):
                return self._unchanged(model, head, slot)
            self.proof.refuse_silent(model, slot)
            target = head.line.staged(slot, max_candidates=self.settings.max_candidates)
            work.append(head.prepare(target), "stage", intent)
            outcome = self.proof.wait_warm(model, slot)
            return work.finish(outcome, slot, "stage", intent)

    def promote(self, model: str, slot: Slot, intent: Intent) -> Moved:
        """Make `slot` what answers everywhere; raises NotProven when it was undone."""
        with self._at_work(model) as work:
            head = work.head
            self.refuse_quarantined(model, slot)
            if head.line.default and head.line.default.digest == slot.digest:
                return self._unchanged(model, head, slot)
            self.proof.refuse_silent(model, slot)
            target = head.line.promoted(slot, ways_back=self.settings.ways_back)
            wanted = target.serving[0]
            if not self.proof.is_warm(model, wanted):
                head = work.append(head.prepare(target), "promote", intent)
                outcome = self.proof.wait_warm(model, wanted)
                if not outcome.ok:
                    return work.finish(outcome, wanted, "promote", intent)
                head = work.append(head.commit(), "promote", intent)
            else:
                head = work.append(head.commit(target), "promote", intent)
            outcome = self.proof.wait_proven(model, wanted)
            return work.finish(outcome, wanted, "promote", intent)

    def rollback(
        self, model: str, intent: Intent, *, leaves: str | None = None, quarantines: bool = True
    ) -> Moved:
        """Go to the nearest way back with one row, whatever stands open.

        `leaves` is the version the user was shown; raises NoLongerServes if it does not serve
        any more. Raises Behind when a server has not followed yet, FleetUnreachable when none is
        live; the row stands either way.
        """
        event = self.ledger.head(model)
        shown = event.head.default if event else None
        if event is None or shown is None:
            raise NothingToGoBackTo(f"nothing of {model} serves, so there is nothing to leave")
        if leaves is not None and shown.version != leaves:
            raise self._no_longer(model, leaves, event)
        while True:
            rows = self.ledger.history(model)
            try:
                new = event.head.roll_back(ways_back(rows), ways_back=self.settings.ways_back)
            except ValueError as error:
                raise NothingToGoBackTo(
                    f"{model}@{shown.version} has no way back: nothing served before it that "
                    "may serve again",
                    next=f"modelswitch promote another version: modelswitch show {model}",
                ) from error
            draft = self._draft(
                model,
                event.seq,
                Kind.SETTLED,
                "rollback",
                intent,
                line=new.line,
                leaves=shown,
                evidence={} if quarantines else {"quarantine": False},
            )
            try:
                written = self.ledger.append(draft)
                break
            except Superseded:
                event = self.ledger.head(model)
                now = event.head.default if event else None
                if event is None or now is None or now.digest != shown.digest:
                    raise self._no_longer(model, shown.version, event) from None
        pins = self.publish()
        wanted = new.line.serving[0]
        outcome = self.proof.wait_proven(model, wanted, everyone=True)
        moved = Moved(
            model, shown, wanted, written.seq, pins.generation, outcome.servers, changed=True
        )
        if not outcome.ok:
            self._raise_behind(model, shown, wanted, outcome)
        return moved

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
        """End the quarantine of a version; raises Refused when it is in none."""
        entries = quarantine(self.ledger.history(model))
        if not any(entry.slot.version == version for entry in entries):
            raise Refused(f"{model}@{version} is not quarantined")
        evidence = {"version": version} | ({"digest": digest} if digest else {})
        return self.ledger.append(
            self._draft(model, None, Kind.NOTE, "lift", intent, evidence=evidence)
        )

    def conclude(self, model: str, intent: Intent, *, now: bool = False) -> Moved | None:
        """Settle what an ended command left open; None when nothing was open.

        Raises AtWork while its command lives, unless `now`.
        """
        event = self.ledger.head(model)
        if event is None or not event.head.is_open:
            return None
        self._refuse_at_work(event, now=now)
        head = event.head
        self.publish()
        outcome = Outcome(ok=False)
        slot = head.default
        if head.kind is Kind.COMMITTED and slot is not None:
            outcome = self.proof.wait_proven(model, slot)
        done = head.settle(done=outcome.ok)
        why = f"concludes the {event.action} of row {event.seq}: {event.reason}"
        draft = self._draft(
            model,
            event.seq,
            Kind.SETTLED,
            "resume",
            Intent(why, intent.claimed, intent.evidence),
            line=done.line,
            evidence=outcome.evidence,
        )
        written = self.ledger.append(draft)
        pins = self.publish()
        return Moved(
            model,
            head.line.default,
            done.line.default,
            written.seq,
            pins.generation,
            outcome.servers,
        )

    # Work: the lease, the rows, the end

    @contextmanager
    def _at_work(self, model: str) -> Iterator[_Work]:
        holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        if not self.ledger.take_lease(model, holder):
            lease = self.ledger.find_lease(model)
            if lease is not None and not _is_dead(lease.holder):
                raise AtWork(
                    f"{model}: another command is at work ({_who(lease.holder)})",
                    next="wait for it, or modelswitch resume --now concludes what it does",
                )
            if lease is not None:
                self.ledger.release(lease.holder)
            if not self.ledger.take_lease(model, holder):
                raise AtWork(f"{model}: another command took up the work just now")
        with LeaseKeeper(self.ledger, holder):
            # Another may conclude it in the same moment: then it is concluded all the same.
            with suppress(Superseded):
                self.conclude(model, Intent("the next command found it open"), now=True)
            self.publish()
            event = self.ledger.head(model)
            yield _Work(self, model, holder, event)

    def _refuse_at_work(self, event: Event, *, now: bool) -> None:
        lease = self.ledger.find_lease(event.model)
        if now or lease is None or _is_dead(lease.holder):
            return
        raise AtWork(
            f"{event.model}: {event.actor.name}'s {event.action} is at work ({_who(lease.holder)})",
            next=f"wait for it, or: modelswitch resume {event.model} --now",
        )

    def _draft(
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
            os_user=_os_user(),
            claimed=intent.claimed,
        )

    def _unchanged(self, model: str, head: Head, slot: Slot | None) -> Moved:
        return Moved(model, head.default, slot, 0, self.ledger.snapshot().generation, changed=False)

    def _no_longer(self, model: str, version: str, event: Event | None) -> NoLongerServes:
        now = event.head.default if event else None
        what = f"{model}@{now.version} does" if now else "nothing does"
        by = f", by {event.actor.name}'s {event.action} (row {event.seq})" if event else ""
        return NoLongerServes(
            f"{model}@{version} no longer serves, {what}{by}; nothing was rolled back",
            next=f"modelswitch history {model}",
        )

    def refuse_quarantined(self, model: str, slot: Slot) -> None:
        entry = find_quarantine(quarantine(self.ledger.history(model)), slot)
        if entry is not None:
            raise Quarantined(
                f"{model}@{slot.version} is quarantined: {entry.actor.name} rolled it back "
                f"(row {entry.seq}: {entry.reason})",
                next=f'modelswitch quarantine lift {model}@{slot.version} --reason "…"',
            )

    def _raise_behind(self, model: str, left: Slot, wanted: Slot, outcome: Outcome) -> None:
        there = [s.name for s in outcome.servers if s.state == "proven"]
        behind = [s for s in outcome.servers if s.state != "proven"]
        story = "; ".join(f"server {s.name}: {s.why}" for s in behind)
        if not outcome.servers or all(s.state == "down" for s in outcome.servers):
            raise FleetUnreachable(
                f"{model} is pinned to {model}@{wanted.version}, but no server is live; each "
                "follows on its return",
                next="modelswitch status",
            )
        done = f"{', '.join(there)} answer with it" if there else "no server answers with it yet"
        raise Behind(
            f"{model} was rolled back to {model}@{wanted.version}: {done}. Behind: {story}. "
            f"What is behind keeps answering {model}@{left.version} and follows when it can.",
            next="modelswitch status",
        )


class _Work:
    """One command's rows on one model: each stands on the one before."""

    def __init__(self, moves: Moves, model: str, holder: str, event: Event | None) -> None:
        self._moves = moves
        self.model = model
        self.holder = holder
        self.seq = event.seq if event else 0
        self.head = event.head if event else _SETTLED_NOTHING
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
        draft = self._moves._draft(
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
        event = self._moves.ledger.append(draft)
        self.seq, self.head = event.seq, head
        self.generation = self._moves.publish().generation
        return head

    def finish(self, outcome: Outcome, slot: Slot, action: str, intent: Intent) -> Moved:
        """Settle at the target if it was proven, else where the move came from."""
        opened = self.head
        self.append(opened.settle(done=outcome.ok), action, intent, evidence=outcome.evidence)
        before = opened.line.default
        if not outcome.ok:
            serves = (
                f"{self.model}@{before.version} serves." if before else "Nothing serves, as before."
            )
            verb = "staged" if action == "stage" else "promoted"
            raise NotProven(
                f"{self.model}@{slot.version} was not {verb}: {outcome.story}. {serves}",
                next=f"modelswitch logs {self.model}@{slot.version}",
            )
        replaced = tuple(s for s in opened.line.candidates if self.head.line.find(s.digest) is None)
        return Moved(
            self.model, before, slot, self.seq, self.generation, outcome.servers, replaced=replaced
        )


def _os_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return str(os.getuid())


def _who(holder: str) -> str:
    host, _, rest = holder.partition(":")
    return f"process {rest.partition(':')[0]} on {host}"


def _is_dead(holder: str) -> bool:
    """Whether the command that took a lease is surely gone: only told on its own machine."""
    host, _, rest = holder.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
