"""Ledgers and pins of the model: each distinct one is built once and named by a number.

Rows are the product's events, sealed by `ledger.chain`; what follows from them (head, pins,
quarantine, ways back) is the product's too, computed when a ledger is first reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from modelswitch.ledger.chain import seal, stands_on
from modelswitch.ledger.derive import is_quarantined, quarantine, ways_back
from modelswitch.ledger.events import Draft, Event
from modelswitch.ledger.protocol import EPOCH, Snapshot
from modelswitch.line import Head, Kind, Line, Slot
from modelswitch.moves.publishing import MERGED, is_merged
from modelswitch.pins import PinnedModel, Pins, render_model

from .rows import check_row

M, N = "m", "n"  # the servers hold M; of N, beside it, there are rows and pins alone
# 4 is another recipe of version 2: a slot like any other.
ONE, TWO, THREE, TWO_B = SLOTS = tuple(
    Slot(version, "sha256:" + digit * 64)
    for version, digit in (("1", "1"), ("2", "2"), ("3", "3"), ("2", "b"))
)
INDEX = {slot.digest: index for index, slot in enumerate(SLOTS)}
BY_LABEL = {slot.label: index for index, slot in enumerate(SLOTS)}
NAMES = ("v1", "v2", "v3", "v2b")
SCALED = 2  # workers, of what is scaled; servers start them at once
NOTHING = -1  # no default: the placeholder answers 503
EMPTY = Head(Kind.SETTLED, Line())
AT = datetime(2026, 1, 1, tzinfo=UTC)


def name(slot: int) -> str:
    return "" if slot == NOTHING else NAMES[slot]


@dataclass(frozen=True, slots=True)
class Asked:
    """A row to be: `what` is prepare, commit, done, undo, rollback, retire, lift, plan, give up,
    take back, or record, which says that a plan's pull request was applied.

    `slot` is its subject; none retires the whole model.

    `shown` is a ghost: the digest the user of a rollback saw serving.
    """

    what: str
    action: str
    slot: Slot | None
    parent: int
    shown: str | None = None
    model: str = M


@dataclass(slots=True)
class Pinned:
    """Published pins; the default and the slots of M, as bits of SLOTS."""

    generation: int
    models: Mapping[str, PinnedModel]
    model: PinnedModel
    default: int
    mask: int


@dataclass(slots=True)
class Stand:
    """Where a model stands: its head and that row's seq, 0 before the first.

    `quarantined` are digests, and so is what settled lines `served`.
    """

    seq: int = 0
    head: Head = EMPTY
    quarantined: frozenset[str] = frozenset()
    served: frozenset[str] = frozenset()


@dataclass(slots=True)
class Ledger:
    """`pulls` are the pins of its plans' pull requests, open or not. Of those of `waiting` plans
    the row's seq is named: published, they count as applied."""

    rows: tuple[Event, ...]
    before: int | None
    models: Mapping[str, Stand]
    pins: int
    pulls: tuple[int, ...] = ()
    waiting: Mapping[int, int] = field(default_factory=dict)


class Book:
    """Every ledger and every pins document reached, under one set of rules."""

    def __init__(
        self,
        rules: frozenset[str],
        given: tuple[Line, ...],
        beside: tuple[Line, ...] = (),
        ways_back: int = 1,
    ) -> None:
        self.rules = rules
        self.ways_back = ways_back
        self.ledgers: list[Ledger] = []
        self.pins: list[Pinned] = []
        self._pins_ids: dict[str, int] = {}
        self._children: dict[tuple[int, Asked], int] = {}
        models = {model: Stand() for model in ((M, N) if beside else (M,))}
        pins = self._intern(0, {})
        self.ledgers.append(Ledger((), None, models, pins))
        self.start = 0
        for model, line in [(M, line) for line in given] + [(N, line) for line in beside]:
            parent = self.ledgers[self.start].models[model].seq
            draft = _draft(model, "adopt", parent, Head(Kind.SETTLED, line))
            self.start = self._add(self.start, draft, None)

    def append(self, ledger_id: int, asked: Asked) -> int | None:
        """The ledger with the row asked for, or None where its parent is no longer the head."""
        key = (ledger_id, asked)
        if key in self._children:
            return self._children[key]
        draft = self.draft(ledger_id, asked)
        if "cas" in self.rules and not stands_on(draft, self._head_row(ledger_id, asked.model)):
            return None
        self._children[key] = self._add(ledger_id, draft, asked)
        return self._children[key]

    def draft(self, ledger_id: int, asked: Asked) -> Draft:
        """What is asked to append, from the head its author has read."""
        model, slot = asked.model, asked.slot
        if asked.what == "lift":
            assert slot
            evidence = {"version": slot.version, "digest": slot.digest}
            note = Draft(model=model, parent=None, kind=Kind.NOTE, action="lift")
            return replace(note, evidence=evidence)
        head = self.head_at(ledger_id, asked.parent)
        draft = _draft(model, asked.action, asked.parent, head)
        match asked.what:
            case "prepare":
                return _of(draft, head.prepare(self._target(head, asked)))
            case "commit":
                target = None if head.is_open else self._target(head, asked)
                return _of(draft, head.commit(target))
            case "plan":
                go = head.prepare if asked.action == "stage" else head.commit
                return replace(_of(draft, go(self._target(head, asked))), holder=None)
            case "record":
                merged = replace(head, planned=False)
                return replace(_of(draft, merged), evidence={MERGED: asked.parent})
            case "done":
                return _of(draft, head.settle(done=True))
            case "undo" | "give up" | "take back":
                own = "undo_parent_is_own_row" in self.rules
                parent = asked.parent if own else self.ledgers[ledger_id].models[model].seq
                undone = _of(draft, head.settle(done=False))
                return replace(undone, action=asked.what, parent=parent)
            case "retire":
                gone = [slot.digest] if slot else [s.digest for s in head.line.slots]
                line = head.line.retired(slot) if slot else Line()
                retired = _of(draft, Head(Kind.SETTLED, line))
                return replace(retired, evidence={"retired": gone})
        new = head.roll_back(
            ways_back(self._remembered(self._rows(ledger_id, model))), ways_back=self.ways_back
        )
        back = replace(_of(draft, new), leaves=head.default)
        return replace(back, evidence={"shown": asked.shown})

    def _target(self, head: Head, asked: Asked) -> Line:
        assert asked.slot
        if asked.action == "stage":
            return head.line.staged(asked.slot)
        if asked.action == "scale":
            return head.line.scaled(asked.slot, SCALED)
        return head.line.promoted(asked.slot, ways_back=self.ways_back)

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

    def pinned_head(self, ledger_id: int, generation: int) -> Head | None:
        """What the pins of a number make of M: a plan that has the number itself is carried out.

        None for a number that no row of the ledger has.
        """
        rows = self.ledgers[ledger_id].rows
        if generation > len(rows):
            return None
        row = next((e for e in rows[generation - 1 :: -1] if e.model == M and not e.is_note), None)
        if row is None:
            return EMPTY
        return replace(row.head, planned=row.head.planned and row.seq != generation)

    def _rows(self, ledger_id: int, model: str) -> tuple[Event, ...]:
        return tuple(e for e in self.ledgers[ledger_id].rows if e.model == model)

    def _head_row(self, ledger_id: int, model: str) -> Event | None:
        ledger = self.ledgers[ledger_id]
        seq = ledger.models[model].seq
        return ledger.rows[seq - 1] if seq else None

    def _add(self, ledger_id: int, draft: Draft, asked: Asked | None) -> int:
        before, model = self.ledgers[ledger_id], draft.model
        row = seal(
            draft,
            last=before.rows[-1] if before.rows else None,
            head=self._head_row(ledger_id, model),
            above=0,
            deployment="d",
            database_role=None,
            at=AT,
        )
        row = self._numbered(ledger_id, row)
        rows = (*before.rows, row)
        stood = before.models[model]
        head, seq = (stood.head, stood.seq) if row.is_note else (row.head, row.seq)
        served = stood.served
        if row.kind is Kind.SETTLED:
            served |= {slot.digest for slot in head.line.serving}
        entries = quarantine(e for e in rows if e.model == model)
        quarantined = frozenset(slot.digest for slot in SLOTS if is_quarantined(entries, slot))
        models = {**before.models, model: Stand(seq, head, quarantined, served)}
        pinned = _pinned(rows, models)
        pins = self._pins_of(ledger_id, row, pinned)
        waiting = self._waiting(row.generation, models, pinned)
        pulls = (*before.pulls, *(pins for pins, at in waiting.items() if at == row.seq))
        ledger = Ledger(rows, ledger_id, models, pins, pulls, waiting)
        if asked:
            check_row(before, ledger, self.pins)
        self.ledgers.append(ledger)
        return len(self.ledgers) - 1

    def _numbered(self, ledger_id: int, row: Event) -> Event:
        """The row with the generation it gets where a rule about plans is dropped."""
        before = self.ledgers[ledger_id]
        last, planned = before.rows[-1].generation if before.rows else 0, row.parent or 0
        if not row.is_note and row.head.planned and "plan_renders_its_line" not in self.rules:
            return replace(row, generation=row.seq)
        if not planned or not self.head_at(ledger_id, planned).planned:
            return row
        if is_merged(row):
            if "late_record_renumbered" not in self.rules:
                return replace(row, generation=max(last, planned))
        elif "plan_ends_above_its_number" not in self.rules:
            same = render_model(row.head) == self.pins[before.pins].models.get(row.model)
            return replace(row, generation=last if same else row.seq)
        return row

    def _pins_of(self, ledger_id: int, row: Event, pinned: Mapping[str, Head]) -> int:
        rendered = {model: self._render(head) for model, head in pinned.items()}
        generation = row.generation
        if "generation_only_grows" not in self.rules:
            at: int | None = ledger_id
            while at is not None:
                ledger = self.ledgers[at]
                if self.pins[ledger.pins].models == rendered:
                    generation = self.pins[ledger.pins].generation
                at = ledger.before
        return self._intern(generation, rendered)

    def _waiting(
        self, generation: int, models: Mapping[str, Stand], pinned: Mapping[str, Head]
    ) -> dict[int, int]:
        """What each plan's pull request holds, of plans that nothing has overtaken."""
        found = {}
        for model, stand in models.items():
            if not stand.head.planned or generation >= stand.seq:
                continue
            heads = {**pinned, model: replace(stand.head, planned=False)}
            rendered = {name: render_model(head) for name, head in heads.items()}
            found[self._intern(stand.seq, rendered)] = stand.seq
        return found

    def _render(self, head: Head) -> PinnedModel:
        if head.planned and "plan_renders_its_line" not in self.rules:
            head = replace(head, planned=False)
        if head.kind is Kind.COMMITTED and "both_lines_pinned_while_open" not in self.rules:
            return render_model(Head(Kind.SETTLED, head.standing))
        return render_model(head)

    def early_pins(self, ledger_id: int, asked: Asked) -> int:
        """What the row asked for will publish. Only a broken protocol asks before it stands."""
        draft = self.draft(ledger_id, asked)
        assert draft.line
        ledger = self.ledgers[ledger_id]
        head = Head(draft.kind, draft.line, draft.target)
        models = {**self.pins[ledger.pins].models, asked.model: self._render(head)}
        return self._intern(len(ledger.rows) + 1, models)

    def earlier_pins(self, ledger_id: int) -> tuple[int, ...]:
        """What was published before, for a stale copy that somebody still reads."""
        found: dict[int, None] = {}
        at = self.ledgers[ledger_id].before
        while at is not None and at >= self.start:
            found.setdefault(self.ledgers[at].pins)
            at = self.ledgers[at].before
        return tuple(found)

    def quarantined_at(self, ledger_id: int, seq: int) -> frozenset[str]:
        """What of M was quarantined when the ledger's last row was number `seq`."""
        ledger = self.ledgers[ledger_id]
        while len(ledger.rows) > seq and ledger.before is not None:
            ledger = self.ledgers[ledger.before]
        return ledger.models[M].quarantined

    def _intern(self, generation: int, models: Mapping[str, PinnedModel]) -> int:
        key = Pins(schema=1, deployment="d", generation=generation, models=dict(models)).text
        if key not in self._pins_ids:
            model = models.get(M) or render_model(EMPTY)
            default = BY_LABEL[model.default] if model.default else NOTHING
            mask = sum(1 << BY_LABEL[label] for label in model.slots)
            self._pins_ids[key] = len(self.pins)
            self.pins.append(Pinned(generation, models, model, default, mask))
        return self._pins_ids[key]


def _pinned(rows: tuple[Event, ...], models: Mapping[str, Stand]) -> dict[str, Head]:
    heads = {model: rows[stand.seq - 1] for model, stand in models.items() if stand.seq}
    return Snapshot(heads, rows[-1].generation, EPOCH).pinned


def _draft(model: str, action: str, parent: int, head: Head) -> Draft:
    return _of(
        Draft(model=model, parent=parent, kind=Kind.SETTLED, action=action, line=Line()), head
    )


def _of(draft: Draft, head: Head) -> Draft:
    """The draft with a head of its own."""
    holder = "somebody" if head.is_open else None
    return replace(draft, kind=head.kind, line=head.line, target=head.target, holder=holder)


def default_of(head: Head) -> int:
    """What a row makes the default: said here once more, as the specification."""
    moved = head.kind is Kind.COMMITTED and not head.planned
    line = head.target if moved else head.line
    return INDEX[line.serving[0].digest] if line and line.serving else NOTHING
