"""What follows from a model's rows: quarantine, ways back, who served since when."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from modelswitch.ledger import (
    Draft,
    Event,
    MemoryLedger,
    find_quarantine,
    is_quarantined,
    quarantine,
    served_versions,
    since,
    ways_back,
)
from modelswitch.line import Head, Kind, Line, Slot


def slot(version: int, recipe: int = 0, *, workers: int = 1) -> Slot:
    return Slot(str(version), f"sha256:{version:04x}{recipe:04x}" + "0" * 56, workers)


class Story:
    """Writes a model's rows the way the verbs do."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()

    @property
    def rows(self) -> list[Event]:
        return self.ledger.history("digits")

    @property
    def head(self) -> Head:
        event = self.ledger.head("digits")
        return event.head if event else Head(Kind.SETTLED, Line())

    def write(self, action: str, head: Head, **more: object) -> Event:
        found = self.ledger.head("digits")
        parent = found.seq if found else 0
        holder = "anna" if head.is_open else None
        row = {"kind": head.kind, "line": head.line, "target": head.target, "holder": holder}
        row |= more
        draft = Draft(model="digits", parent=parent, action=action, os_user="anna", **row)  # type: ignore[arg-type]
        return self.ledger.append(draft)

    def settle(self, *serving: Slot, action: str = "promote", **evidence: object) -> Event:
        return self.write(action, Head(Kind.SETTLED, Line(serving)), evidence=evidence)

    def promote(self, chosen: Slot, *, proven: bool = True) -> None:
        self.write("promote", self.head.commit(self.head.line.promoted(chosen, ways_back=2)))
        self.write("promote", self.head.settle(done=proven))

    def roll_back(self, **evidence: object) -> Event:
        leaves = self.head.default
        head = self.head.roll_back(ways_back(self.rows), ways_back=2)
        return self.write("rollback", head, leaves=leaves, reason="wrong", evidence=evidence)

    def note(self, action: str, **evidence: object) -> Event:
        draft = Draft(model="digits", parent=None, kind=Kind.NOTE, action=action, evidence=evidence)
        return self.ledger.append(draft)


# -- quarantine ----------------------------------------------------------------------------------


def test_a_rollback_quarantines_every_archive_of_the_version_it_leaves() -> None:
    story = Story()
    story.promote(slot(3))
    story.promote(slot(4))
    rolled = story.roll_back()

    (entry,) = quarantine(story.rows)
    assert (entry.slot, entry.seq, entry.reason) == (slot(4), rolled.seq, "wrong")
    assert entry.actor.name == "anna"
    assert entry.whole_version
    assert is_quarantined([entry], slot(4, recipe=7))
    assert not is_quarantined([entry], slot(3))


def test_back_to_another_recipe_of_the_version_quarantines_the_one_archive() -> None:
    story = Story()
    story.promote(slot(4))
    story.promote(slot(4, recipe=1))
    story.roll_back()

    entries = quarantine(story.rows)
    assert is_quarantined(entries, slot(4, recipe=1))
    assert not is_quarantined(entries, slot(4))
    assert not entries[0].whole_version


def test_neither_an_undo_nor_a_rollback_that_says_so_quarantines() -> None:
    story = Story()
    story.promote(slot(3))
    story.promote(slot(4), proven=False)
    story.promote(slot(5))
    story.roll_back(quarantine=False)
    story.note("rollback", seen="digits@4 by hand")

    assert quarantine(story.rows) == ()


def test_a_lift_ends_it_until_the_next_rollback() -> None:
    story = Story()
    story.promote(slot(3))
    story.promote(slot(4))
    story.note("lift", version="4")  # too early: there is nothing to lift
    story.roll_back()
    assert is_quarantined(quarantine(story.rows), slot(4))

    story.note("lift", version="3")
    assert is_quarantined(quarantine(story.rows), slot(4))
    story.note("lift", version="4")
    assert quarantine(story.rows) == ()

    story.promote(slot(4))
    story.roll_back()
    story.promote(slot(4))  # by adoption, say: nothing lifted it
    again = story.roll_back()
    found = find_quarantine(quarantine(story.rows), slot(4))
    assert found is not None
    assert found.seq == again.seq


def test_a_lift_may_name_one_archive() -> None:
    story = Story()
    story.promote(slot(3))
    story.promote(slot(4))
    story.roll_back()
    story.note("lift", version="4", digest=slot(4, recipe=1).digest)

    entries = quarantine(story.rows)
    assert not is_quarantined(entries, slot(4, recipe=1))
    assert is_quarantined(entries, slot(4))

    recipes = Story()
    recipes.promote(slot(4))
    recipes.promote(slot(4, recipe=1))
    recipes.roll_back()
    recipes.note("lift", version="4", digest=slot(4, recipe=2).digest)
    assert len(quarantine(recipes.rows)) == 1
    recipes.note("lift", version="4", digest=slot(4, recipe=1).digest)
    assert quarantine(recipes.rows) == ()


# -- ways back -----------------------------------------------------------------------------------


def test_ways_back_are_what_served_most_recent_first_with_its_last_workers() -> None:
    story = Story()
    for served in (slot(1), slot(2), slot(1, workers=3), slot(4)):
        story.promote(served)

    # Version 1 served with 3 workers; the promotion of 2 kept what version 1 had before.
    assert ways_back(story.rows) == (slot(1, workers=3), slot(2))


def test_what_was_never_settled_is_no_way_back() -> None:
    story = Story()
    story.promote(slot(1))
    story.promote(slot(2), proven=False)
    story.write("promote", story.head.commit(Line((slot(3), slot(1)))))

    assert ways_back(story.rows) == (slot(1),)  # from the open default 3
    assert served_versions(story.rows) == {"1"}


def test_what_only_stood_behind_a_default_comes_last() -> None:
    story = Story()
    story.settle(slot(2))
    story.settle(slot(4), slot(1), slot(3), action="adopt")

    assert ways_back(story.rows) == (slot(2), slot(1), slot(3))


def test_only_what_is_settled_or_noted_was_retired() -> None:
    story = Story()
    story.promote(slot(1))
    story.promote(slot(2))
    warming = story.head.prepare(Line((slot(2),)))
    story.write("retire", warming, evidence={"retired": [slot(1).digest]})
    assert ways_back(story.rows) == (slot(1),)

    story.note("retire", retired=[slot(1).digest])
    assert ways_back(story.rows) == ()


def test_a_quarantined_version_is_no_way_back_until_it_is_lifted() -> None:
    story = Story()
    for version in (1, 2, 3):
        story.promote(slot(version))
    story.roll_back()
    assert ways_back(story.rows) == (slot(1),)

    story.note("lift", version="3")
    assert ways_back(story.rows) == (slot(3), slot(1))


def test_a_retired_slot_is_no_way_back_until_it_served_again() -> None:
    story = Story()
    for version in (1, 2, 3):
        story.promote(slot(version))
    story.settle(slot(3), slot(2), action="retire", retired=[slot(1).digest])
    assert ways_back(story.rows) == (slot(2),)

    story.promote(slot(1))
    story.promote(slot(3))
    assert ways_back(story.rows) == (slot(1), slot(2))
    assert served_versions(story.rows) == {"1", "2", "3"}


# -- since ---------------------------------------------------------------------------------------


def test_the_default_serves_since_the_row_that_moved_the_pointer() -> None:
    story = Story()
    assert since(story.rows) is None
    story.promote(slot(1))
    moved = story.write("promote", story.head.commit(Line((slot(2), slot(1)))))
    story.note("note")
    story.write("promote", story.head.settle(done=True))
    story.settle(slot(2, workers=4), slot(1), action="scale")

    assert since(story.rows) == moved


def test_what_an_undo_brought_back_serves_since_the_undo() -> None:
    story = Story()
    story.promote(slot(1))
    story.promote(slot(2), proven=False)

    assert since(story.rows) == story.ledger.head("digits")


def test_nothing_serves_while_only_a_candidate_stands() -> None:
    story = Story()
    story.write("stage", Head(Kind.SETTLED, Line((), (slot(1),))))

    assert since(story.rows) is None
    assert ways_back(story.rows) == ()

    story.promote(slot(1))
    story.settle()
    assert since(story.rows) is None


# -- any story -----------------------------------------------------------------------------------

moves = st.lists(
    st.tuples(
        st.sampled_from(["promote", "undone", "rollback", "keep", "lift", "retire", "note"]),
        st.integers(1, 5),
        st.integers(0, 1),
        st.integers(1, 3),
    ),
    max_size=25,
)


def told(steps: list[tuple[str, int, int, int]]) -> tuple[Story, set[str]]:
    """A story as policy lets it happen, and the digests retired and not served since."""
    story = Story()
    retired: set[str] = set()
    for move, version, recipe, workers in steps:
        chosen = slot(version, recipe, workers=workers)
        held = story.head.line
        if move in ("promote", "undone"):
            if is_quarantined(quarantine(story.rows), chosen):
                continue
            story.promote(chosen, proven=move == "promote")
        elif move in ("rollback", "keep"):
            back = (*held.ways_back, *ways_back(story.rows))
            if held.default is None or not back:
                continue
            story.roll_back(quarantine=move == "rollback")
        elif move == "retire":
            if held.default is not None and held.default.digest == chosen.digest:
                continue
            kept = held.retired(chosen)
            story.settle(*kept.serving, action="retire", retired=[chosen.digest])
            retired.add(chosen.digest)
        elif move == "lift":
            story.note("lift", version=str(version), reason="looked at")
        else:
            story.note("note")
        default = story.head.default
        retired.discard(default.digest if default else "")
    return story, retired


@settings(max_examples=150, deadline=None)
@given(moves, st.randoms(use_true_random=False))
def test_any_story_keeps_its_ways_back_honest(
    steps: list[tuple[str, int, int, int]], chance: random.Random
) -> None:
    story, retired = told(steps)
    rows = story.rows
    back, entries, default = ways_back(rows), quarantine(rows), story.head.default
    served = [e.line.default for e in rows if e.kind is Kind.SETTLED and e.line]
    digests = [s.digest for s in back]

    assert len(set(digests)) == len(digests)
    assert not any(is_quarantined(entries, s) for s in (*back, *story.head.line.serving))
    assert not retired.intersection(digests)
    assert default is None or default.digest not in digests
    assert all(s.version in served_versions(rows) for s in back)
    # Nothing that served is forgotten without a reason.
    for slot_ in filter(None, served):
        reasons = (slot_.digest in retired, is_quarantined(entries, slot_), slot_ == default)
        same = default is not None and slot_.digest == default.digest
        assert slot_.digest in digests or same or any(reasons)
    # The order is that of their last service, newest first.
    last = [max(i for i, s in enumerate(served[::-1]) if s and s.digest == d) for d in digests]
    assert last == sorted(last, reverse=True)
    # And the order in which rows are handed over says nothing.
    mixed = chance.sample(rows, len(rows))
    assert (ways_back(mixed), quarantine(mixed), since(mixed)) == (back, entries, since(rows))
    assert story.ledger.verify() == len(rows)
