"""The hash chain: how a row joins it, and how to see that none was changed, dropped or put in.

What a chain without a key can't show: that its newest rows were cut off, or that somebody with
the database's rights wrote all of it anew. Keep a row's hash elsewhere to see that too (every
`--json` answer names its event).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from modelswitch.errors import LedgerCorrupt, Superseded
from modelswitch.ledger.events import GENESIS, Actor, Draft, Event, rfc3339
from modelswitch.pins import PinnedModel, render_model


def seal(
    draft: Draft,
    *,
    last: Event | None,
    head: Event | None,
    above: int,
    deployment: str,
    database_role: str | None,
    at: datetime,
) -> Event:
    """The row that `draft` becomes behind `last`, the deployment's newest row.

    `head` is the model's newest row that is no note. Its place must have been checked
    (`stands_on`). Raises ValueError if its pins could not be rendered.
    """
    seq = max(last.seq if last else 0, above) + 1
    generation = last.generation if last else 0
    # Pins published without the ledger (`above`) must be topped even by a row that changes none:
    # an agent refuses the same number with other content.
    topped = above > 0 and above >= generation
    event = Event(
        seq=seq,
        generation=generation,
        deployment=deployment,
        model=draft.model,
        parent=draft.parent,
        kind=draft.kind,
        action=draft.action,
        line=draft.line,
        target=draft.target,
        leaves=draft.leaves,
        holder=draft.holder,
        actor=Actor(database_role, draft.os_user, draft.claimed),
        reason=draft.reason,
        evidence=draft.evidence,
        correlation_id=draft.correlation_id,
        at=at,
        prev_hash=last.hash if last else GENESIS,
        hash="",
    )
    if head is not None and head == last and _carries_out(event, head):
        # Its pins were published under the number of the plan. With a row in between they may
        # not be the same any more, or another plan's pull request may have a higher number.
        event = replace(event, generation=head.seq)
    elif topped or _changes_pins(event, head) or _must_outrank(event, head):
        event = replace(event, generation=seq)
    return replace(event, hash=event.computed_hash())


def _carries_out(event: Event, head: Event) -> bool:
    """Whether the row says that the plan at the head was applied as it stood."""
    if event.is_note or not head.head.planned:
        return False
    return event.head == replace(head.head, planned=False)


def _must_outrank(event: Event, head: Event | None) -> bool:
    """Whether the pins of a plan that ends here would be the newer ones, applied too late."""
    if event.is_note or head is None or not head.head.planned:
        return False
    return event.generation < head.seq


def _changes_pins(event: Event, head: Event | None) -> bool:
    return not event.is_note and _rendered(event) != _rendered(head)


def _rendered(head: Event | None) -> PinnedModel | None:
    return render_model(head.head) if head is not None and head.is_pinned else None


def stands_on(draft: Draft, head: Event | None) -> bool:
    """Whether the draft's parent is the model's head (a note stands anywhere)."""
    return draft.parent is None or draft.parent == (head.seq if head else 0)


def superseded(draft: Draft, winner: Event | None) -> Exception:
    """Why a draft whose parent is not the head cannot stand; `winner` has that parent."""
    if winner is None:
        return ValueError(f"event {draft.parent} was never a head of {draft.model}")
    default = winner.head.default
    serves = f"{winner.model}@{default.version} is the default" if default else "nothing serves"
    return Superseded(
        f"this {draft.action} of {draft.model} was not recorded: {winner.actor.name} was first, "
        f"with a {winner.action} ({winner.kind}, event {winner.seq}, {rfc3339(winner.at)}), "
        f"after which {serves}",
        winner=winner,
        next=f"look at modelswitch history {draft.model}, then decide again",
    )


def verify(events: Iterable[Event]) -> int:
    """Check a deployment's whole chain, oldest row first; the number of rows checked.

    Raises LedgerCorrupt naming the first seq that does not hold: a hash, a link to the row
    before, a number that does not grow, a parent that is not its model's head.
    """
    last: Event | None = None
    heads: dict[str, int] = {}
    count = 0
    for event in events:
        if event.computed_hash() != event.hash:
            raise _corrupt(event.seq, "its content is not what its hash says")
        if event.prev_hash != (last.hash if last else GENESIS):
            before = f"event {last.seq}" if last else "the beginning"
            raise _corrupt(event.seq, f"it does not follow {before}")
        if last is not None and event.seq <= last.seq:
            raise _corrupt(event.seq, f"its number is not above {last.seq}")
        if not event.is_note:
            if event.parent != heads.get(event.model, 0):
                raise _corrupt(event.seq, f"its parent {event.parent} was not {event.model}'s head")
            heads[event.model] = event.seq
        last = event
        count += 1
    return count


def _corrupt(seq: int, why: str) -> LedgerCorrupt:
    return LedgerCorrupt(
        f"the ledger does not hold at event {seq}: {why}",
        next="somebody changed the table by hand: compare it with a backup before the next move",
    )
