"""A counterexample in words: who did what, in order, and which promise that breaks."""

from __future__ import annotations

from modelswitch.ledger.events import Event
from modelswitch.line import Line, Slot
from modelswitch.moves.publishing import is_merged

from .book import BY_LABEL, INDEX, NAMES, Book, M, N, name
from .checker import Found, State, Successor
from .commands import Verb


def tell(found: Found) -> str:
    """The story of a violation, one step a line."""
    assert found.violation
    assert found.book
    people = {i: f"{chr(65 + i)} ({_verb(v)})" for i, v in enumerate(found.world.verbs)}
    lines = [f"In the world of {found.world.name}: broken: {found.violation}"]
    before: State | None = None
    for number, (step, state) in enumerate(found.trace):
        if step is None or before is None:
            lines.append(f"  given: {_row(found.book.ledgers[state.ledger].rows[-1:])}")
        else:
            lines.append(f"  {number:2}. {_step(found.book, people, step, before, state)}")
        before = state
    if found.breaker is not None:
        lines.append(f"      the next step of {people.get(found.breaker, 'a server')} breaks it")
    elif not found.ending:
        lines.append("      everybody has finished")
    lines += [f"      {line}" for line in found.ending]
    return "\n".join(lines)


def _step(book: Book, people: dict[int, str], step: Successor, before: State, after: State) -> str:
    who = people.get(step.who, "a server")
    text = f"{who} {step.what}"
    if step.who < 0:
        text += f" {name(step.touches)}" if name(step.touches) else ""
        if step.what.startswith("accepts"):
            new = [s for s in after.servers if s not in before.servers] or list(after.servers)
            text += f" {_pins(book, new[0].accepted)}"
    if after.ledger != before.ledger:
        text += f" {_row(book.ledgers[after.ledger].rows[-1:])}"
    if after.published != before.published:
        text += f" {_pins(book, after.published)}"
    return text


def _pins(book: Book, pins_id: int) -> str:
    pins = book.pins[pins_id]
    slots = " ".join(NAMES[i] for i in range(len(NAMES)) if pins.mask & 1 << i)
    beside = pins.models.get(N)
    of_n = (
        f"; default{_of(N)} {NAMES[BY_LABEL[beside.default]]}" if beside and beside.default else ""
    )
    default = name(pins.default) or "none"
    return f"pins {pins.generation} (default {default}; slots {slots or '-'}{of_n})"


def _row(rows: tuple[Event, ...]) -> str:
    if not rows:
        return "an empty ledger"
    row = rows[0]
    if row.is_note:
        return f"row {row.seq}, a note: {row.action}"
    target = f" → {_line(row.target)}" if row.target else ""
    line = _line(row.line) if row.line else ""
    kind = "planned" if row.head.planned else "merged" if is_merged(row) else row.kind
    return f"row {row.seq} on {row.parent}{_of(row.model)}: {kind} {line}{target} ({row.action})"


def _of(model: str) -> str:
    return "" if model == M else f" of {model}"


def _line(line: Line) -> str:
    candidates = f" | {_names(line.candidates)}" if line.candidates else ""
    return f"[{_names(line.serving) or '-'}{candidates}]"


def _names(slots: tuple[Slot, ...]) -> str:
    return " ".join(NAMES[INDEX[s.digest]] for s in slots)


def _verb(verb: Verb) -> str:
    what = f"{verb.name} {_names((verb.slot,))}" if verb.slot else verb.name
    return what + _of(verb.model)
