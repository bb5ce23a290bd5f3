"""Ledgers and pins of the model: each distinct one is built once and named by a number.

Rows are the product's events, sealed by `ledger.chain`; what follows from them (head, pins,
quarantine, ways back) is the product's too, computed when a ledger is first reached.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from modelswitch.ledger.chain import seal, stands_on
from modelswitch.ledger.derive import is_quarantined, quarantine, ways_back
from modelswitch.ledger.events import Draft, Event
from modelswitch.line import Head, Kind, Line, Slot
from modelswitch.pins import PinnedModel, Pins, render_model

from .rules import Violation

# 4 is another recipe of version 2: a slot like any other.
ONE, TWO, THREE, TWO_B = SLOTS = tuple(
    Slot(version, "sha256:" + digit * 64)
    for version, digit in (("1", "1"), ("2", "2"), ("3", "3"), ("2", "b"))
)
INDEX = {slot.digest: index for index, slot in enumerate(SLOTS)}
BY_LABEL = {slot.label: index for index, slot in enumerate(SLOTS)}
NAMES = ("v1", "v2", "v3", "v2b")
NOTHING = -1  # no default: the placeholder answers 503
EMPTY = Head(Kind.SETTLED, Line())
AT = datetime(2026, 1, 1, tzinfo=UTC)


def name(slot: int) -> str:
    return "" if slot == NOTHING else NAMES[slot]


@dataclass(frozen=True, slots=True)
class Plan:
    """A row to be: `what` is prepare, commit, done, undo, rollback, retire or lift.

    `slot` is its subject; none retires the whole model.

    `shown` is a ghost: the digest the user of a rollback saw serving.
    """

    what: str
    action: str
    slot: Slot | None
    parent: int
    shown: str | None = None


@dataclass(slots=True)
class Pinned:
    """Published pins; the default and the slots as bits of SLOTS."""

    generation: int
    model: PinnedModel
    default: int
    mask: int


@dataclass(slots=True)
class Ledger:
    """`head_seq` is 0 before the first row. `served` are digests of settled lines."""

    rows: tuple[Event, ...]
    before: int | None
    head_seq: int
    head: Head
    pins: int
    quarantined: frozenset[str]
    served: frozenset[str]


class Book:
    """Every ledger and every pins document reached, under one set of rules."""

    def __init__(self, rules: frozenset[str], given: tuple[Line, ...], ways_back: int = 1) -> None:
        self.rules = rules
        self.ways_back = ways_back
        self.ledgers: list[Ledger] = []
        self.pins: list[Pinned] = []
        self._pins_ids: dict[str, int] = {}
        self._children: dict[tuple[int, Plan], int] = {}
        pins = self._intern(0, render_model(EMPTY))
        self.ledgers.append(Ledger((), None, 0, EMPTY, pins, frozenset(), frozenset()))
        self.start = 0
        for line in given:
            draft = self._draft(
                "adopt", self.ledgers[self.start].head_seq, Head(Kind.SETTLED, line)
            )
            self.start = self._add(self.start, draft, None)

    def append(self, ledger_id: int, plan: Plan) -> int | None:
        """The ledger with the planned row, or None where its parent is no longer the head."""
        key = (ledger_id, plan)
        if key in self._children:
            return self._children[key]
        draft = self.draft(ledger_id, plan)
        if "cas" in self.rules and not stands_on(draft, self._head_row(ledger_id)):
            return None
        self._children[key] = self._add(ledger_id, draft, plan)
        return self._children[key]

    def draft(self, ledger_id: int, plan: Plan) -> Draft:
        """What a plan asks to append, from the head its author has read."""
        if plan.what == "lift":
            assert plan.slot
            evidence = {"version": plan.slot.version, "digest": plan.slot.digest}
            note = Draft(model="m", parent=None, kind=Kind.NOTE, action="lift")
            return replace(note, evidence=evidence)
        head = self.head_at(ledger_id, plan.parent)
        if plan.what == "prepare":
            return self._draft(plan.action, plan.parent, head.prepare(self._target(head, plan)))
        if plan.what == "commit":
            target = None if head.is_open else self._target(head, plan)
            return self._draft(plan.action, plan.parent, head.commit(target))
        if plan.what == "done":
            return self._draft(plan.action, plan.parent, head.settle(done=True))
        if plan.what == "retire":
            line = head.line.retired(plan.slot) if plan.slot else Line()
            gone = [plan.slot.digest] if plan.slot else [s.digest for s in head.line.slots]
            draft = self._draft("retire", plan.parent, Head(Kind.SETTLED, line))
            return replace(draft, evidence={"retired": gone})
        if plan.what == "undo":
            own = "undo_parent_is_own_row" in self.rules
            parent = plan.parent if own else self.ledgers[ledger_id].head_seq
            return self._draft("undo", parent, head.settle(done=False))
        history = ways_back(self._remembered(self.ledgers[ledger_id].rows))
        new = head.roll_back(history, ways_back=self.ways_back)
        draft = self._draft("rollback", plan.parent, new)
        return replace(draft, leaves=head.default, evidence={"shown": plan.shown})

    def _draft(self, action: str, parent: int, head: Head) -> Draft:
        return Draft(
            model="m",
            parent=parent,
            kind=head.kind,
            action=action,
            line=head.line,
            target=head.target,
            holder="somebody" if head.is_open else None,
        )

    def _target(self, head: Head, plan: Plan) -> Line:
        assert plan.slot
        if plan.action == "stage":
            return head.line.staged(plan.slot)
        return head.line.promoted(plan.slot, ways_back=self.ways_back)

    def _remembered(self, rows: tuple[Event, ...]) -> list[Event]:
        """The rows as a rollback reads them: as they are, unless a rule is dropped."""
        found = list(rows)
        if "quarantine_in_refill" not in self.rules:
            found = [replace(e, evidence={"quarantine": False}) if e.leaves else e for e in found]
        if "retired_not_in_refill" not in self.rules:
            found = [replace(e, evidence={}) if e.action == "retire" else e for e in found]
        if "history_from_settled_only" not in self.rules:
            found = [
                replace(e, kind=Kind.SETTLED, line=e.target, target=None)
                if e.kind is Kind.COMMITTED
                else e
                for e in found
            ]
        return found

    def head_at(self, ledger_id: int, seq: int) -> Head:
        return self.ledgers[ledger_id].rows[seq - 1].head if seq else EMPTY

    def _head_row(self, ledger_id: int) -> Event | None:
        ledger = self.ledgers[ledger_id]
        return ledger.rows[ledger.head_seq - 1] if ledger.head_seq else None

    def _add(self, ledger_id: int, draft: Draft, plan: Plan | None) -> int:
        before = self.ledgers[ledger_id]
        row = seal(
            draft,
            last=before.rows[-1] if before.rows else None,
            head=self._head_row(ledger_id),
            above=0,
            deployment="d",
            database_role=None,
            at=AT,
        )
        rows = (*before.rows, row)
        head, head_seq = (before.head, before.head_seq) if row.is_note else (row.head, row.seq)
        served = before.served
        if row.kind is Kind.SETTLED:
            served |= {slot.digest for slot in head.line.serving}
        entries = quarantine(rows)
        ledger = Ledger(
            rows,
            ledger_id,
            head_seq,
            head,
            self._pins_of(ledger_id, row, head),
            frozenset(slot.digest for slot in SLOTS if is_quarantined(entries, slot)),
            served,
        )
        if plan:
            check_row(before, ledger)
        self.ledgers.append(ledger)
        return len(self.ledgers) - 1

    def _pins_of(self, ledger_id: int, row: Event, head: Head) -> int:
        model, generation = self._render(head), row.generation
        if "generation_only_grows" not in self.rules:
            at: int | None = ledger_id
            while at is not None:
                ledger = self.ledgers[at]
                if self.pins[ledger.pins].model == model:
                    generation = self.pins[ledger.pins].generation
                at = ledger.before
        return self._intern(generation, model)

    def _render(self, head: Head) -> PinnedModel:
        if head.kind is Kind.COMMITTED and "both_lines_pinned_while_open" not in self.rules:
            return render_model(Head(Kind.SETTLED, head.standing))
        return render_model(head)

    def planned_pins(self, ledger_id: int, plan: Plan) -> int:
        """What the planned row will publish. Only a broken protocol asks before it stands."""
        draft = self.draft(ledger_id, plan)
        assert draft.line
        seq = len(self.ledgers[ledger_id].rows) + 1
        return self._intern(seq, self._render(Head(draft.kind, draft.line, draft.target)))

    def earlier_pins(self, ledger_id: int) -> tuple[int, ...]:
        """What was published before, for a stale copy that somebody still reads."""
        found: dict[int, None] = {}
        at = self.ledgers[ledger_id].before
        while at is not None and at >= self.start:
            found.setdefault(self.ledgers[at].pins)
            at = self.ledgers[at].before
        return tuple(found)

    def quarantined_at(self, ledger_id: int, seq: int) -> frozenset[str]:
        """What was quarantined when the ledger's last row was number `seq`."""
        ledger = self.ledgers[ledger_id]
        while len(ledger.rows) > seq and ledger.before is not None:
            ledger = self.ledgers[ledger.before]
        return ledger.quarantined

    def _intern(self, generation: int, model: PinnedModel) -> int:
        key = Pins(schema=1, deployment="d", generation=generation, models={"m": model}).text
        if key not in self._pins_ids:
            default = BY_LABEL[model.default] if model.default else NOTHING
            mask = sum(1 << BY_LABEL[label] for label in model.slots)
            self._pins_ids[key] = len(self.pins)
            self.pins.append(Pinned(generation, model, default, mask))
        return self._pins_ids[key]


def default_of(head: Head) -> int:
    """What a row makes the default: said here once more, as the specification."""
    line = head.target if head.kind is Kind.COMMITTED else head.line
    return INDEX[line.serving[0].digest] if line and line.serving else NOTHING


def check_row(before: Ledger, after: Ledger) -> None:
    """What a new row must never do; raises Violation."""
    row = after.rows[-1]
    if row.is_note:
        return
    if row.parent != before.head_seq:
        raise Violation("no_row_lost")
    came, went = before.head, after.head
    if row.action == "rollback":
        if row.evidence["shown"] != (came.default.digest if came.default else None):
            raise Violation("shown")
    elif came.is_open:
        moved = went.kind is Kind.COMMITTED and (went.line, went.target) == (came.line, came.target)
        settled = went.kind is Kind.SETTLED and went.line in (came.line, came.target)
        if not moved and not settled:
            raise Violation("no_stray_undo")
    elif row.action != "retire" and (went.kind is Kind.SETTLED or went.line != came.line):
        raise Violation("no_stray_undo")
    serving = {slot.digest for slot in went.standing.serving}
    if serving & after.quarantined:
        raise Violation("quarantine")
    if row.action != "rollback":
        return
    new = serving - {slot.digest for slot in came.standing.serving}
    if new & _retired(before.rows):
        raise Violation("retired")
    if serving - before.served:
        raise Violation("served_before")


def _retired(rows: tuple[Event, ...]) -> set[str]:
    """What was retired and has not been made the default since."""
    retired: set[str] = set()
    for row in rows:
        if row.action == "retire":
            retired |= set(row.evidence["retired"])
        elif row.kind is Kind.SETTLED and row.head.default:
            retired.discard(row.head.default.digest)
    return retired
