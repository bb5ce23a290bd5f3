"""The commands, each a small machine: read, publish, append, publish, wait, append, publish.

A command that is killed is one that takes no further step; a zombie is one that sleeps while
others conclude its work, and then goes on. Both are among the interleavings. A lease is only
courtesy, so nobody here asks for one: any verb may conclude any other's open row at any time.

A merge is no command of ours: a pipeline applies a plan's pull request, once, at any time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from modelswitch.line import Head, Kind, Slot
from modelswitch.moves.publishing import merged_candidate

from .agents import Server
from .book import INDEX, NOTHING, SCALED, SLOTS, Asked, Book, Ledger, M, Stand
from .rules import Violation

UNSEEN = -1  # no pins


class Verb(NamedTuple):
    """`name` is stage, promote, scale, plan, plan to stage, retire, lift (with their slot),
    rollback, resume, give up, merge or stale merge.

    A retirement without a slot takes out the whole model.
    """

    name: str
    slot: Slot | None = None
    model: str = M

    @property
    def is_pipeline(self) -> bool:
        return self.name.endswith("merge")


class Command(NamedTuple):
    """`at` is its next step, `base` the seq of the row it stands on (its own, once it has one),
    `pins` those of that row, `told` what a rollback's user was shown, `then` what follows the
    publishing, `own` whether the open row is its own or somebody else's that it concludes,
    `merged` the seq of a plan that it has seen applied and is about to record, `saw` the pins it
    has looked at before its next row."""

    at: str
    base: int = 0
    pins: int = 0
    told: str | None = None
    then: str = ""
    own: bool = False
    merged: int = 0
    saw: int = UNSEEN


class Step(NamedTuple):
    what: str
    command: Command
    ledger: int
    published: int


_CONCLUDES = ("commit", "done", "undo", "give up", "take back")
END = Command("end")
ENDS = "ends"


def started(verb: Verb) -> Command:
    return Command("show" if verb.name == "rollback" else "merge" if verb.is_pipeline else "read")


class Commands:
    def __init__(self, book: Book) -> None:
        self.book = book
        self._steps: dict[tuple[object, ...], tuple[Step, ...]] = {}

    def steps(
        self,
        verb: Verb,
        command: Command,
        ledger: int,
        published: int,
        servers: tuple[Server, ...],
    ) -> tuple[Step, ...]:
        """What the command may do next: more than one step only where it waits."""
        ready, everywhere = self._reported(verb, command, ledger, servers)
        newest = 0
        if command.at == "act" and self.book.ledgers[ledger].waiting:
            newest = max(self.book.pins[server.accepted].generation for server in servers)
        key = (verb, command, ledger, published, ready, everywhere, newest)
        found = self._steps.get(key)
        if found is None:
            at = _At(self.book, verb, command, ledger, published, newest)
            found = self._steps[key] = tuple(at.steps(ready, everywhere))
        return found

    def _reported(
        self, verb: Verb, command: Command, ledger: int, servers: tuple[Server, ...]
    ) -> tuple[bool, bool]:
        """Whether what the command waits for is reported, and whether it is so everywhere."""
        if command.at not in ("act", "warm", "prove"):
            return False, False
        rules, pins = self.book.rules, self.book.pins
        least = pins[command.pins].generation
        wanted = NOTHING
        if command.at == "prove" and verb.model == M:
            wanted = pins[command.pins].default
        elif verb.model == M:  # what is asked of N, every server does at once
            rows = self.book.ledgers[ledger].rows
            staged = merged_candidate(rows[command.base - 1]) if command.at == "warm" else None
            slot = staged or verb.slot
            wanted = INDEX[slot.digest] if slot else NOTHING
        bit = 1 << wanted if wanted != NOTHING else 0

        def holds(server: Server, *, fresh: bool) -> bool:
            if fresh and pins[server.accepted].generation < least:
                return False
            return bool(server.proven & bit or not bit) and (
                command.at != "prove" or verb.model != M or server.default == wanted
            )

        fresh = "proof_of_own_generation" in rules
        answers = [holds(server, fresh=fresh) for server in servers]
        ready = all(answers) if "every_server_proves" in rules else any(answers)
        return ready, all(holds(server, fresh=True) for server in servers)


class _At(NamedTuple):
    """One command at one place of the world; `newest` is the highest generation reported."""

    book: Book
    verb: Verb
    command: Command
    ledger: int
    published: int
    newest: int

    def steps(self, ready: bool, everywhere: bool) -> list[Step]:
        command = self.command
        if command.merged:
            return [self._record()]
        match command.at:
            case "end":
                return []
            case "merge":
                return self._merges()
            case "show":
                return [self._show()]
            case "read":
                read = command._replace(base=self._stand.seq, pins=self._now.pins)
                # A rollback needs nothing published first: it undoes whatever stands.
                first = "publish_head_first" in self.book.rules and self.verb.name != "rollback"
                if not first:
                    return [self._goes("reads the head", read._replace(at="act"))]
                return [self._goes("reads the head", self._publishing(read, "act"))]
            case "publish":
                return [self._publish()]
            case "act":
                return [self._act(ready)]
            case "warm":
                then = "commit" if self.verb.name == "promote" and command.own else "done"
                waited = [self._goes("gives up", command._replace(at="undo"))]
                if ready:
                    waited.insert(0, self._goes("sees it warm", command._replace(at=then)))
                return waited
            case "prove":
                waited = [self._goes("gives up", command._replace(at="undo"))]
                if ready:
                    if not everywhere:
                        raise Violation("proven_everywhere")
                    waited.insert(0, self._goes("sees it proven", command._replace(at="done")))
                return waited
            case "commit" if "write_before_effect" not in self.book.rules:
                early = self.book.early_pins(self.ledger, self._asked("commit"))
                late = command._replace(at="late", pins=early)
                return [self._put("publishes too early", late, early)]
            case "commit" | "late":
                return [self._append("commit", "prove")]
        return [self._append(command.at, "end" if command.own else "read")]

    def _show(self) -> Step:
        """What the user of a rollback sees: of a plan that is applied, what it has brought."""
        head = self._stand.head
        if self._now.waiting.get(self.published) == self._stand.seq:
            head = replace(head, planned=False)
        if head.default is None:
            return self._goes(ENDS, END)
        return self._goes("is shown what serves", Command("read", told=head.default.digest))

    def _act(self, ready: bool) -> Step:
        """The first row of its own, or the conclusion of what somebody left open."""
        verb, head = self.verb, self._head
        if verb.name == "lift":
            return self._append("lift", "end")
        if look := self._look():
            return look
        if verb.name == "rollback":
            if head.default is None or not self._still_serves(head.default):
                return self._goes(ENDS, END)
            return self._append("rollback", "end")
        careless = verb.name == "retire" and "moves_start_settled" not in self.book.rules
        if head.is_open and not careless:
            return self._conclude(head)
        slot = verb.slot
        held = head.line.find(slot.digest) if slot else None
        is_default = held is not None and held == head.default
        if verb.name == "retire" and not is_default and (held or slot is None) and head.line.slots:
            return self._append("retire", "end")
        if verb.name == "scale":
            more = held is not None and held.workers != SCALED
            return self._append("prepare", "warm") if more else self._goes(ENDS, END)
        stages = verb.name in ("stage", "plan to stage")
        if slot is None or is_default or verb.name == "retire" or (stages and held):
            return self._goes(ENDS, END)
        if slot.digest in self._stand.quarantined and "quarantine_at_promote" in self.book.rules:
            return self._goes(ENDS, END)
        if verb.name == "plan to stage" or (verb.name == "plan" and held and ready):
            return self._append("plan", "end")
        if verb.name == "plan":
            return self._goes("is told that it is not warm", END)
        if verb.name == "promote" and held and ready:
            return self._append("commit", "prove")
        return self._append("prepare", "warm")

    def _conclude(self, head: Head) -> Step:
        command, rules = self.command, self.book.rules
        if head.planned:
            if self.verb.name == "give up":
                return self._append("give up", "read")
            number = self.book.pins[self._now.pins].generation
            overtaken = number >= command.base and "overtaken_plan_ends" in rules
            if overtaken or "plan_waits" not in rules:
                return self._append("undo", "read")
            taken_back = self.newest >= command.base and self.published not in self._now.waiting
            if taken_back and "taken_back_plan_ends" in rules:
                return self._append("take back", "read")
            return self._goes("is told that it waits for a pull request", END)
        if head.kind is Kind.COMMITTED:
            return self._goes("waits for proof", command._replace(at="prove", saw=UNSEEN))
        if merged_candidate(self._now.rows[command.base - 1]):
            return self._goes("waits until it is warm", command._replace(at="warm", saw=UNSEEN))
        return self._append("undo", "read")

    def _still_serves(self, default: Slot) -> bool:
        """Whether what the rollback's user was shown is the default."""
        rules, told = self.book.rules, self.command.told
        assert told
        if "rollback_carries_leaves" not in rules:
            return True
        if "leaves_names_the_slot" not in rules:
            return SLOTS[INDEX[told]].version == default.version
        return told == default.digest

    @property
    def _now(self) -> Ledger:
        return self.book.ledgers[self.ledger]

    @property
    def _stand(self) -> Stand:
        return self._now.models[self.verb.model]

    @property
    def _head(self) -> Head:
        return self.book.head_at(self.ledger, self.command.base)

    def _asked(self, what: str) -> Asked:
        command, verb = self.command, self.verb
        action, slot = verb.name, verb.slot
        if what == "plan":
            action = "stage" if verb.name == "plan to stage" else "promote"
        elif command.base and what in _CONCLUDES and self._head.is_open:
            action = self._now.rows[command.base - 1].action
            slot = None
        return Asked(what, action, slot, command.base, command.told, verb.model)

    def _append(self, what: str, then: str) -> Step:
        if what != "lift" and (look := self._look()):
            return look
        try:
            ledger = self.book.append(self.ledger, self._asked(what))
        except ValueError:
            if what != "rollback":
                raise
            # nothing to go back to
            return self._goes(ENDS, END)
        if ledger is None:
            again = then == "read" or self.verb.name in ("rollback", "resume")
            lost = Command("read", told=self.command.told) if again else END
            return self._goes("is superseded", lost)
        if self.command.saw == self.published and self.published in self._now.waiting:
            raise Violation("merge_kept")
        row = self.book.ledgers[ledger]
        own = then != "read"
        after = self.command._replace(base=len(row.rows), pins=row.pins, own=own, saw=UNSEEN)
        after = END if what == "plan" else self._publishing(after, then)
        return Step("appends", after, ledger, self.published)

    def _look(self) -> Step | None:
        """Before a row: that a plan's pull request was applied is written first."""
        command, waiting = self.command, self._now.waiting
        if not waiting or command.saw != UNSEEN:
            return None
        if self.published in waiting and "merge_before_row" in self.book.rules:
            first = command._replace(at="publish", then=command.at, pins=self._now.pins)
            return self._goes("sees a plan applied", first)
        return self._goes("looks at the pins", command._replace(saw=self.published))

    def _record(self) -> Step:
        """What its author saw may be over by now: then somebody else's row stands there."""
        plan = self._now.rows[self.command.merged - 1]
        asked = Asked("record", plan.action, None, plan.seq, model=plan.model)
        ledger = self.book.append(self.ledger, asked)
        stands = self._now if ledger is None else self.book.ledgers[ledger]
        again = plan.model == self.verb.model and self.command.then == "act"
        after = self.command._replace(merged=0, pins=stands.pins)
        after = self._publishing(after, "read" if again else after.then)
        if ledger is None:
            return self._goes("is superseded", after)
        return Step("appends", after, ledger, self.published)

    def _publishing(self, command: Command, then: str) -> Command:
        """On its way to publish the newest pins; at once at what follows if they stand."""
        standing = self.book.pins[self.published].generation
        if (
            "publish_never_lowers" in self.book.rules
            and standing == self.book.pins[command.pins].generation
        ):
            return _next(command, then)
        return command._replace(at="publish", then=then)

    def _publish(self) -> Step:
        rules, command = self.book.rules, self.command
        after = _next(command, command.then)
        standing, new = (self.book.pins[p].generation for p in (self.published, command.pins))
        if standing < new or "publish_never_lowers" not in rules:
            return self._put("publishes", after, command.pins)
        plan = self._now.waiting.get(self.published)
        if plan is not None and "merge_recorded" in rules:
            return self._goes("finds a plan applied", command._replace(merged=plan))
        if standing > self.book.pins[self._now.pins].generation:
            return self._goes("is told that something else wrote the pins", END)
        return self._goes("leaves the newer pins", after)

    def _merges(self) -> list[Step]:
        """A pipeline applies any plan's pull request: one of old as well, if it is not newer."""
        standing = self.book.pins[self.published].generation
        stale = self.verb.name == "stale merge" or "merge_never_lowers" not in self.book.rules
        pulls = self._now.pulls
        if self.verb.name == "stale merge":
            pulls += self.book.earlier_pins(self.ledger)
        return [
            self._put("applies", END, pins)
            for pins in dict.fromkeys(pulls)
            if self.book.pins[pins].generation > standing or (stale and pins != self.published)
        ]

    def _put(self, what: str, after: Command, pins: int) -> Step:
        new, standing = self.book.pins[pins], self.book.pins[self.published].generation
        if not self.verb.is_pipeline:
            for model, stand in self._now.models.items():
                default, pinned = stand.head.line.default, new.models.get(model)
                waits = stand.head.planned and stand.seq <= new.generation
                if waits and (pinned and pinned.default) != (default and default.label):
                    raise Violation("reviewed")
        if new.generation < standing and new.default != NOTHING and self.verb.name != "stale merge":
            quarantined = self.book.quarantined_at(self.ledger, standing)
            if SLOTS[new.default].digest in quarantined:
                raise Violation("quarantine")
        return Step(what, after, self.ledger, pins)

    def _goes(self, what: str, command: Command) -> Step:
        return Step(what, command, self.ledger, self.published)


def _next(command: Command, then: str) -> Command:
    if then == "end":
        return END
    if then == "read":
        return Command("read", told=command.told)
    return command._replace(at=then, then="")
