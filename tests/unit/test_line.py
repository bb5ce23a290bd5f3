"""The line, its moves and its heads: what cannot be written down, and what every move keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelswitch.line import Head, Kind, Line, Slot, Stage, label_of, stage_of, version_of


def slot(version: int, recipe: str = "0", workers: int = 1) -> Slot:
    return Slot(str(version), "sha256:" + f"{version:x}{recipe}" * 32, workers)


ONE, TWO, THREE, FOUR = (slot(v) for v in (1, 2, 3, 4))
TWO_B = slot(2, "b")


@pytest.mark.parametrize(
    ("version", "digest", "workers", "complaint"),
    [
        ("three", ONE.digest, 1, "a version is a number"),
        ("", ONE.digest, 1, "a version is a number"),
        ("3", "md5:" + "a" * 64, 1, "a digest is sha256"),
        ("3", "sha256:" + "a" * 63, 1, "a digest is sha256"),
        ("3", "sha256:" + "g" * 64, 1, "a digest is sha256"),
        ("3", "sha256:" + "A" * 64, 1, "a digest is sha256"),
        ("3", ONE.digest, 0, "at least one worker"),
        ("٣", ONE.digest, 1, "a version is a number"),
        ("03", ONE.digest, 1, "a version is a number"),
        ("²", ONE.digest, 1, "a version is a number"),
    ],
)
def test_a_slot_that_cannot_be_pinned_cannot_be_made(
    version: str, digest: str, workers: int, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Slot(version, digest, workers)


def test_a_slots_label_is_its_version_and_the_first_8_digits_of_its_digest() -> None:
    made = Slot("3", "sha256:ab12cd34" + "0" * 56)
    assert made.label == "3-ab12cd34" == label_of("3", made.digest)
    assert version_of(made.label) == "3"


def test_a_slot_stands_once_in_a_line() -> None:
    with pytest.raises(ValueError, match="stands once"):
        Line((ONE, ONE))
    with pytest.raises(ValueError, match="stands once"):
        Line((ONE,), (ONE,))
    with pytest.raises(ValueError, match="stands once"):
        Line((ONE,), (replace(ONE, workers=2),))


def test_two_recipes_of_one_version_are_two_slots() -> None:
    assert Line((TWO_B, TWO)).slots == (TWO_B, TWO)


def test_an_empty_line_serves_nothing() -> None:
    assert Line().default is None
    assert Line().slots == Line().ways_back == ()


def test_staging_beyond_the_limit_drops_the_oldest_candidate() -> None:
    assert Line((ONE,), (TWO,)).staged(THREE).candidates == (THREE,)
    assert Line((ONE,), (TWO,)).staged(THREE, max_candidates=2).candidates == (TWO, THREE)
    assert Line((ONE,), (TWO, THREE)).staged(TWO, max_candidates=2).candidates == (THREE, TWO)


def test_what_serves_cannot_be_staged() -> None:
    with pytest.raises(ValueError, match="stands once"):
        Line((ONE,)).staged(ONE)


def test_promoting_keeps_the_nearest_ways_back_and_the_other_candidates() -> None:
    line = Line((TWO, ONE), (THREE, FOUR))
    assert line.promoted(THREE) == Line((THREE, TWO), (FOUR,))
    assert line.promoted(THREE, ways_back=2) == Line((THREE, TWO, ONE), (FOUR,))
    assert line.promoted(ONE) == Line((ONE, TWO), (THREE, FOUR))


def test_promoting_takes_over_the_workers_of_what_it_replaces() -> None:
    busy = replace(ONE, workers=4)
    assert Line((busy,)).promoted(TWO).default == replace(TWO, workers=4)
    assert Line((ONE,)).promoted(replace(TWO, workers=4)).default == replace(TWO, workers=4)


def test_rolling_back_refills_the_ways_back_from_history_nearest_first() -> None:
    assert Line((THREE, TWO)).rolled_back((TWO, ONE)) == Line((TWO, ONE))
    assert Line((THREE,)).rolled_back((TWO, ONE)) == Line((TWO, ONE))
    assert Line((THREE, TWO)).rolled_back(()) == Line((TWO,))
    assert Line((THREE, TWO)).rolled_back((THREE, ONE)) == Line((TWO, ONE))


def test_rolling_back_takes_a_candidate_that_serves_again_out_of_staging() -> None:
    assert Line((TWO,), (ONE, THREE)).rolled_back((ONE,)) == Line((ONE,), (THREE,))


@pytest.mark.parametrize("line", [Line(), Line((), (ONE,)), Line((ONE,)), Line((ONE,), (TWO,))])
def test_there_is_no_rolling_back_without_a_way_back(line: Line) -> None:
    with pytest.raises(ValueError, match=r"no way back|nothing serves"):
        line.rolled_back(())


def test_a_rollback_to_another_version_keeps_no_recipe_of_the_version_it_leaves() -> None:
    # That version is quarantined whole by the same row: it must not be the next way back.
    assert Line((TWO_B, ONE)).rolled_back((TWO,)) == Line((ONE,))
    assert Line((TWO_B, ONE, TWO)).rolled_back((THREE,), ways_back=2) == Line((ONE, THREE))


def test_a_rollback_to_another_recipe_of_the_same_version_keeps_it() -> None:
    assert Line((TWO_B, TWO)).rolled_back((ONE,)) == Line((TWO, ONE))


def test_what_serves_cannot_be_retired() -> None:
    with pytest.raises(ValueError, match="cannot be retired"):
        Line((ONE,)).retired(ONE)
    assert Line((TWO, ONE), (THREE,)).retired(ONE) == Line((TWO,), (THREE,))
    assert Line((TWO, ONE), (THREE,)).retired(THREE) == Line((TWO, ONE))


def test_a_stage_is_what_the_line_makes_of_a_version() -> None:
    line = Line((THREE, TWO), (FOUR,))
    assert stage_of("3", line) is Stage.PRODUCTION
    assert stage_of("4", line) is Stage.STAGING
    assert stage_of("2", line) is Stage.ARCHIVED
    assert stage_of("1", line, ["1", "2"]) is Stage.ARCHIVED
    assert stage_of("1", line) is Stage.NONE


def test_a_version_that_served_before_and_is_a_candidate_again_is_in_staging() -> None:
    assert stage_of("1", Line((TWO,), (ONE,)), ["1"]) is Stage.STAGING


def test_another_recipe_of_what_serves_leaves_the_version_in_production() -> None:
    assert stage_of("2", Line((TWO,), (TWO_B,))) is Stage.PRODUCTION


# --- heads ---------------------------------------------------------------------------------


def test_a_head_that_says_nothing_or_too_much_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="needs a target"):
        Head(Kind.PREPARED, Line())
    with pytest.raises(ValueError, match="needs a target"):
        Head(Kind.COMMITTED, Line())
    with pytest.raises(ValueError, match="has no target"):
        Head(Kind.SETTLED, Line(), Line((ONE,)))
    with pytest.raises(ValueError, match="has no target"):
        Head(Kind.SETTLED, Line(), Line())
    with pytest.raises(ValueError, match="never a head"):
        Head(Kind.NOTE, Line())


def test_a_move_goes_by_prepared_and_committed_to_settled() -> None:
    line = Line((ONE,))
    target = line.promoted(TWO)
    prepared = Head(Kind.SETTLED, line).prepare(target)
    committed = prepared.commit()
    assert prepared == Head(Kind.PREPARED, line, target)
    assert committed == Head(Kind.COMMITTED, line, target)
    assert (prepared.default, committed.default) == (ONE, TWO)
    assert set(prepared.slots) == set(committed.slots) == {ONE, TWO}
    assert committed.settle(done=True) == Head(Kind.SETTLED, target)
    assert committed.settle(done=False) == Head(Kind.SETTLED, line)
    assert prepared.is_open
    assert not committed.settle(done=True).is_open


def test_what_is_warm_is_committed_without_preparing() -> None:
    line = Line((ONE,), (TWO,))
    committed = Head(Kind.SETTLED, line).commit(line.promoted(TWO))
    assert committed.kind is Kind.COMMITTED


def test_moves_start_where_they_may() -> None:
    line, target = Line((ONE,)), Line((TWO, ONE))
    settled, prepared = Head(Kind.SETTLED, line), Head(Kind.PREPARED, line, target)
    committed = Head(Kind.COMMITTED, line, target)
    for head in (prepared, committed):
        with pytest.raises(ValueError, match="not settled"):
            head.prepare(target)
        with pytest.raises(ValueError, match="not settled"):
            head.commit(target)
    for head in (settled, committed):
        with pytest.raises(ValueError, match="not prepared"):
            head.commit()
    with pytest.raises(ValueError, match="nothing is open"):
        settled.settle(done=False)


def test_a_prepared_head_settles_only_where_the_pointer_need_not_move() -> None:
    line = Line((ONE,))
    with pytest.raises(ValueError, match="commit first"):
        Head(Kind.PREPARED, line, Line((TWO, ONE))).settle(done=True)
    staged = line.staged(TWO)
    assert Head(Kind.PREPARED, line, staged).settle(done=True).line == staged


def test_a_slot_in_both_lines_keeps_the_larger_number_of_workers() -> None:
    line, target = Line((replace(ONE, workers=3),)), Line((TWO, ONE))
    assert Head(Kind.PREPARED, line, target).slots == (replace(ONE, workers=3), TWO)
    assert Head(Kind.PREPARED, Line((ONE,)), Line((replace(ONE, workers=3),))).slots == (
        replace(ONE, workers=3),
    )


def test_a_rollback_stands_on_any_head() -> None:
    line, target = Line((TWO, ONE)), Line((THREE, TWO))
    assert Head(Kind.SETTLED, line).roll_back(()).line == Line((ONE,))
    assert Head(Kind.PREPARED, line, target).roll_back(()).line == Line((ONE,))
    assert Head(Kind.COMMITTED, line, target).roll_back((TWO, ONE)).line == Line((TWO, ONE))


# --- properties ------------------------------------------------------------------------------

POOL = [slot(v, r) for v in range(1, 6) for r in "0b"]
LIMITS = st.integers(1, 3)


@st.composite
def lines(draw: st.DrawFn, *, serving: int = 0) -> Line:
    order = draw(st.permutations(POOL))
    first = draw(st.integers(serving, 4))
    return Line(tuple(order[:first]), tuple(order[first : first + draw(st.integers(0, 3))]))


@given(lines(serving=1), st.sampled_from(POOL), LIMITS)
def test_a_rollback_undoes_a_promotion(line: Line, promoted: Slot, ways_back: int) -> None:
    before = line.default
    if before is None or before.digest == promoted.digest:
        return
    after = line.promoted(promoted, ways_back=ways_back).rolled_back((), ways_back=ways_back)
    assert after.default == before


@given(lines(), st.sampled_from(POOL), LIMITS)
def test_a_promoted_slot_serves_and_nothing_stands_twice(
    line: Line, promoted: Slot, ways_back: int
) -> None:
    after = line.promoted(promoted, ways_back=ways_back)
    assert after.default is not None
    assert after.default.digest == promoted.digest
    assert len(after.ways_back) <= ways_back
    assert promoted.digest not in {s.digest for s in after.ways_back + after.candidates}
    assert {s.digest for s in after.slots} <= {s.digest for s in (*line.slots, promoted)}


@given(lines(serving=1), st.lists(st.sampled_from(POOL)), LIMITS)
def test_a_rollback_never_keeps_what_it_leaves(
    line: Line, history: list[Slot], ways_back: int
) -> None:
    try:
        after = line.rolled_back(history, ways_back=ways_back)
    except ValueError:
        assert not line.ways_back
        assert all(s.digest == line.serving[0].digest for s in history)
        return
    left = line.serving[0]
    assert left.digest not in {s.digest for s in after.serving}
    assert len(after.ways_back) <= ways_back
    if after.serving[0].version != left.version:
        assert left.version not in {s.version for s in after.serving}
    if line.ways_back:
        assert after.serving[0].digest == line.ways_back[0].digest


@given(lines(), lines())
def test_an_open_head_holds_everything_that_either_way_needs(line: Line, target: Line) -> None:
    for kind in (Kind.PREPARED, Kind.COMMITTED):
        head = Head(kind, line, target)
        assert {s.label for s in head.slots} == {s.label for s in line.slots + target.slots}
        assert len({s.label for s in head.slots}) == len(head.slots)
        both = [s for s in (head.line.default, target.default) if s]
        assert {s.digest for s in both} <= {s.digest for s in head.slots}


@given(lines(), lines())
def test_an_undo_gives_back_the_line_it_came_from(line: Line, target: Line) -> None:
    for kind in (Kind.PREPARED, Kind.COMMITTED):
        assert Head(kind, line, target).settle(done=False) == Head(Kind.SETTLED, line)


@given(lines(), st.sampled_from(POOL))
def test_every_slot_has_the_stage_of_its_place(line: Line, probe: Slot) -> None:
    stage = stage_of(probe.version, line)
    here = [s for s in line.slots if s.version == probe.version]
    assert (stage is Stage.NONE) == (not here)
    assert (stage is Stage.PRODUCTION) == (
        line.default is not None and line.default.version == probe.version
    )
