"""What a new row must never do, whoever appends it: the ledger's half of the promises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from modelswitch.ledger.events import Event
from modelswitch.line import Head, Kind
from modelswitch.moves.publishing import is_merged

from .rules import Violation

if TYPE_CHECKING:
    from .book import Ledger, Pinned


def check_row(before: Ledger, after: Ledger, pins: Sequence[Pinned]) -> None:
    """Raises Violation if the last row of `after` breaks a promise."""
    row = after.rows[-1]
    if row.is_note:
        return
    was, now = pins[before.pins], pins[after.pins]
    for known in (before.pins, *before.pulls):
        if pins[known].generation == now.generation and known != after.pins:
            raise Violation("one_text")
    stood, stands = before.models[row.model], after.models[row.model]
    if row.parent != stood.seq:
        raise Violation("no_row_lost")
    came, went = stood.head, stands.head
    if row.action == "rollback":
        if row.evidence["shown"] != (came.default.digest if came.default else None):
            raise Violation("shown")
    elif came.planned:
        overtaken = was.generation > stood.seq
        if not _ends_plan(row, came, overtaken=overtaken):
            raise Violation("no_stray_undo")
    elif came.is_open:
        moved = went.kind is Kind.COMMITTED and (went.line, went.target) == (came.line, came.target)
        settled = went.kind is Kind.SETTLED and went.line in (came.line, came.target)
        if not moved and not settled:
            raise Violation("no_stray_undo")
    elif row.action != "retire" and (went.kind is Kind.SETTLED or went.line != came.line):
        raise Violation("no_stray_undo")
    serving = {slot.digest for slot in went.standing.serving}
    if serving & stands.quarantined:
        raise Violation("quarantine")
    if row.action != "rollback":
        return
    new = serving - {slot.digest for slot in came.standing.serving}
    if new & _retired(e for e in before.rows if e.model == row.model):
        raise Violation("retired")
    if serving - stood.served:
        raise Violation("served_before")


def _ends_plan(row: Event, plan: Head, *, overtaken: bool) -> bool:
    """Whether a plan may end so: applied as it stood, or at its line.

    There it ends when it is given up, overtaken, or applied and taken back.
    """
    if is_merged(row):
        return (row.kind, row.line, row.target) == (plan.kind, plan.line, plan.target)
    ended = row.kind is Kind.SETTLED and row.line == plan.line
    return ended and (overtaken or row.action in ("give up", "take back"))


def _retired(rows: Iterable[Event]) -> set[str]:
    """What was retired and has not been made the default since."""
    retired: set[str] = set()
    for row in rows:
        if row.action == "retire":
            retired |= set(row.evidence["retired"])
        elif row.kind is Kind.SETTLED and row.head.default:
            retired.discard(row.head.default.digest)
    return retired
