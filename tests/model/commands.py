"""The commands, each a small machine: read, publish, append, publish, wait, append, publish.

A command that is killed is one that takes no further step; a zombie is one that sleeps while
others conclude its work, and then goes on. Both are among the interleavings. A lease is only
courtesy, so nobody here asks for one: any verb may conclude any other's open row at any time.
"""

from __future__ import annotations

from typing import NamedTuple

from modelswitch.line import Head, Kind, Slot

from .agents import Server
from .book import INDEX, NOTHING, SLOTS, Book, Plan
from .rules import Violation


class Verb(NamedTuple):
    """`name` is stage, promote, retire, lift (with their slot), rollback or resume.

    A retirement without a slot takes out the whole model.
    """

    name: str
    slot: Slot | None = None


class Command(NamedTuple):
    """`at` is its next step, `base` the seq of the row it stands on (its own, once it has one),
    `pins` those of that row, `told` what a rollback's user was shown, `then` what follows the
    publishing, `own` whether the open row is its own or somebody else's that it concludes."""

    at: str
    base: int = 0
    pins: int = 0
    told: str | None = None
    then: str = ""
    own: bool = False


class Step(NamedTuple):
    what: str
    command: Command
    ledger: int
    published: int
    highest: int  # ghost: the highest generation ever published


END = Command("end")
ENDS = "ends"


def started(verb: Verb) -> Command:
    return Command("show" if verb.name == "rollback" else "read")


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
        highest: int,
        servers: tuple[Server, ...],
    ) -> tuple[Step, ...]:
        """What the command may do next: more than one step only where it waits."""
        ready, everywhere = self._reported(verb, command, servers)
        key = (verb, command, ledger, published, highest, ready, everywhere)
        found = self._steps.get(key)
        if found is None:
            at = _At(self.book, verb, command, ledger, published, highest)
            found = self._steps[key] = tuple(at.steps(ready, everywhere))
        return found

    def _reported(
        self, verb: Verb, command: Command, servers: tuple[Server, ...]
    ) -> tuple[bool, bool]:
        """Whether what the command waits for is reported, and whether it is so everywhere."""
        if command.at not in ("act", "warm", "prove"):
            return False, False
        rules, pins = self.book.rules, self.book.pins
        least = pins[command.pins].generation
        if command.at == "prove":
            wanted = pins[command.pins].default
        else:
            wanted = INDEX[verb.slot.digest] if verb.slot else NOTHING
        bit = 1 << wanted if wanted != NOTHING else 0

        def holds(server: Server, *, fresh: bool) -> bool:
            if fresh and pins[server.accepted].generation < least:
                return False
            return bool(server.proven & bit or not bit) and (
                command.at != "prove" or server.default == wanted
            )

        fresh = "proof_of_own_generation" in rules
        answers = [holds(server, fresh=fresh) for server in servers]
        ready = all(answers) if "every_server_proves" in rules else any(answers)
        return ready, all(holds(server, fresh=True) for server in servers)


class _At(NamedTuple):
    """One command at one place of the world."""

    book: Book
    verb: Verb
    command: Command
    ledger: int
    published: int
    highest: int

    def steps(self, ready: bool, everywhere: bool) -> list[Step]:
        command, ledger = self.command, self.book.ledgers[self.ledger]
        match command.at:
            case "end":
                return []
            case "show":
                default = ledger.head.default
                if default is None:
                    return [self._goes(ENDS, END)]
                return [self._goes("is shown what serves", Command("read", told=default.digest))]
            case "read":
                read = command._replace(base=ledger.head_seq, pins=ledger.pins)
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
                then = "commit" if self.verb.name == "promote" else "done"
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
                plan = self._plan("commit")
                early = self.book.planned_pins(self.ledger, plan)
                late = command._replace(at="late", pins=early)
                return [self._put("publishes too early", late, early)]
            case "commit" | "late":
                return [self._append("commit", "prove")]
        return [self._append(command.at, "end" if command.own else "read")]

    def _act(self, ready: bool) -> Step:
        """The first row of its own, or the conclusion of what somebody left open."""
        verb, command = self.verb, self.command
        ledger, head = self.book.ledgers[self.ledger], self._head
        if verb.name == "lift":
            return self._append("lift", "end")
        if verb.name == "rollback":
            if head.default is None or not self._still_serves(head.default):
                return self._goes(ENDS, END)
            return self._append("rollback", "end")
        careless = verb.name == "retire" and "moves_start_settled" not in self.book.rules
        if head.is_open and not careless:
            if head.kind is Kind.PREPARED:
                return self._append("undo", "read")
            return self._goes("waits for proof", command._replace(at="prove"))
        slot = verb.slot
        held = head.line.find(slot.digest) if slot else None
        is_default = held is not None and held == head.default
        if verb.name == "retire" and not is_default and (held or slot is None) and head.line.slots:
            return self._append("retire", "end")
        if slot is None or is_default or verb.name == "retire" or (verb.name == "stage" and held):
            return self._goes(ENDS, END)
        if slot.digest in ledger.quarantined and "quarantine_at_promote" in self.book.rules:
            return self._goes(ENDS, END)
        if verb.name == "promote" and held and ready:
            return self._append("commit", "prove")
        return self._append("prepare", "warm")

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
    def _head(self) -> Head:
        return self.book.head_at(self.ledger, self.command.base)

    def _plan(self, what: str) -> Plan:
        command, verb = self.command, self.verb
        action, slot = verb.name, verb.slot
        if command.base and what in ("done", "undo", "commit") and self._head.is_open:
            action = self.book.ledgers[self.ledger].rows[command.base - 1].action
            slot = None
        return Plan(what, action, slot, command.base, command.told)

    def _append(self, what: str, then: str) -> Step:
        try:
            ledger = self.book.append(self.ledger, self._plan(what))
        except ValueError:
            if what != "rollback":
                raise
            # nothing to go back to
            return self._goes(ENDS, END)
        if ledger is None:
            again = then == "read" or self.verb.name in ("rollback", "resume")
            lost = Command("read", told=self.command.told) if again else END
            return self._goes("is superseded", lost)
        row = self.book.ledgers[ledger]
        own = then != "read"
        after = self.command._replace(base=len(row.rows), pins=row.pins, own=own)
        after = self._publishing(after, then)
        return Step("appends", after, ledger, self.published, self.highest)

    def _publishing(self, command: Command, then: str) -> Command:
        """On its way to publish its pins; at once at what follows if that can change nothing."""
        standing = self.book.pins[self.published].generation
        if (
            "publish_never_lowers" in self.book.rules
            and standing >= self.book.pins[command.pins].generation
        ):
            return _next(command, then)
        return command._replace(at="publish", then=then)

    def _publish(self) -> Step:
        pins, after = self.command.pins, _next(self.command, self.command.then)
        standing = self.book.pins[self.published].generation
        lower = self.book.pins[pins].generation <= standing
        if lower and "publish_never_lowers" in self.book.rules:
            return self._goes("leaves the newer pins", after)
        return self._put("publishes", after, pins)

    def _put(self, what: str, after: Command, pins: int) -> Step:
        new = self.book.pins[pins]
        if new.generation < self.highest and new.default != NOTHING:
            quarantined = self.book.quarantined_at(self.ledger, self.highest)
            if any(INDEX[digest] == new.default for digest in quarantined):
                raise Violation("quarantine")
        return Step(what, after, self.ledger, pins, max(self.highest, new.generation))

    def _goes(self, what: str, command: Command) -> Step:
        return Step(what, command, self.ledger, self.published, self.highest)


def _next(command: Command, then: str) -> Command:
    if then == "end":
        return END
    if then == "read":
        return Command("read", told=command.told)
    return command._replace(at=then, then="")
