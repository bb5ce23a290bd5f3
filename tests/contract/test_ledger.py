"""One suite for every ledger: in memory, on SQLite, on a real PostgreSQL."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ledgers import Subject, line, memory_subject, note, settled, slot, sql_subject, sql_url

from modelswitch.effects import watching
from modelswitch.errors import LedgerUnreachable, Superseded, UsageError
from modelswitch.ledger import (
    Draft,
    Event,
    LeaseKeeper,
    Ledger,
    MemoryLedger,
    SqlLedger,
    open_ledger,
)
from modelswitch.line import Kind, Line


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    if request.param == "memory":
        yield memory_subject()
        return
    made = sql_subject(sql_url(request.param, request, tmp_path))
    yield made
    assert isinstance(made.ledger, SqlLedger)
    made.ledger.close()


@pytest.fixture
def ledger(subject: Subject) -> Ledger:
    return subject.ledger


# -- appending and reading -----------------------------------------------------------------------


def test_an_empty_ledger_has_nothing_to_publish(ledger: Ledger) -> None:
    assert ledger.head("digits") is None
    assert ledger.snapshot() == ({}, 0, "main")
    assert ledger.history() == []
    assert ledger.verify() == 0


def test_a_row_reads_back_as_it_was_written(ledger: Ledger) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    written = ledger.append(
        Draft(
            model="digits",
            parent=0,
            kind=Kind.COMMITTED,
            action="rollback",
            line=Line((slot(2), slot(1, workers=3)), (slot(4),)),
            target=line(1, 2),
            leaves=slot(2),
            holder="h-1",
            reason="2 % schlechter – 'quoted' \"twice\" ☃ %s :name",
            evidence={"gates": (1, 2.5, None, True), "nested": {"ä": "ö"}, "big": 10**30},
            correlation_id="c-1",
            os_user="anna",
            claimed="Anna B.",
        )
    )

    assert ledger.head("digits") == written
    assert ledger.heads() == {"digits": written}
    assert ledger.history("digits") == [written]
    assert Event.from_json(written.to_json()) == written
    assert (written.seq, written.generation, written.parent) == (1, 1, 0)
    assert written.evidence["gates"] == [1, 2.5, None, True]
    assert (written.actor.os_user, written.actor.claimed) == ("anna", "Anna B.")
    assert before < written.at < datetime.now(UTC) + timedelta(seconds=2)
    assert written.at.tzinfo is not None


def test_history_is_newest_first_by_model_and_limited(ledger: Ledger) -> None:
    ledger.append(settled(0, line(1)))
    ledger.append(settled(0, line(1), model="faces"))
    ledger.append(note())
    ledger.append(settled(1, line(2, 1)))

    assert [e.seq for e in ledger.history()] == [4, 3, 2, 1]
    assert [e.seq for e in ledger.history("digits")] == [4, 3, 1]
    assert [e.seq for e in ledger.history("digits", limit=2)] == [4, 3]
    assert ledger.history("nobody") == []


def test_every_row_is_one_effect(ledger: Ledger) -> None:
    seen: list[tuple[str, str]] = []
    told: list[dict[str, object]] = []
    with watching(
        boundary=lambda name, side: seen.append((name, side)),
        progress=lambda _, facts: told.append(facts),
    ):
        ledger.append(settled(0, line(1)))

    assert seen == [("ledger.append", "before"), ("ledger.append", "after")]
    assert told == [{"model": "digits", "kind": "settled", "action": "promote"}]


# -- the compare-and-swap ------------------------------------------------------------------------


def test_whoever_saw_an_old_head_is_told_who_won(ledger: Ledger) -> None:
    ledger.append(settled(0, line(1)))
    winner = ledger.append(settled(1, line(2, 1)))
    ledger.append(settled(2, line(3, 2)))

    with pytest.raises(Superseded) as told:
        ledger.append(settled(1, line(4, 1)))

    assert told.value.winner == winner
    assert "anna was first, with a promote (settled, event 2" in told.value.message
    assert "digits@2 is the default" in told.value.message
    assert ledger.verify() == 3


def test_a_parent_that_never_was_a_head_is_refused(ledger: Ledger) -> None:
    ledger.append(settled(0, line(1)))
    ledger.append(settled(0, line(1), model="faces"))

    for parent in (2, 99):
        with pytest.raises(ValueError, match="never a head of digits"):
            ledger.append(settled(parent, line(2, 1)))


def race(ledger: Ledger, start: threading.Barrier, version: int) -> int:
    start.wait()
    try:
        return ledger.append(settled(1, line(version, 1))).seq
    except Superseded as error:
        return -getattr(error.winner, "seq", 0)


def test_of_eight_threads_exactly_one_wins(ledger: Ledger) -> None:
    ledger.append(settled(0, line(1)))
    start = threading.Barrier(8)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda v: race(ledger, start, v), range(2, 10)))

    assert sorted(answers) == [-2] * 7 + [2]
    assert ledger.verify() == 2


def test_eight_threads_on_eight_models_lose_no_row(ledger: Ledger) -> None:
    def climb(number: int) -> None:
        parent = 0
        for version in range(1, 6):
            parent = ledger.append(settled(parent, line(version), model=f"m{number}")).seq

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(climb, range(8)))

    assert [e.seq for e in ledger.history()] == list(range(40, 0, -1))
    assert ledger.verify() == 40


def test_a_rollback_stands_on_an_open_head(ledger: Ledger) -> None:
    ledger.append(settled(0, line(2, 1)))
    ledger.append(
        Draft(
            model="digits",
            parent=1,
            kind=Kind.COMMITTED,
            action="promote",
            line=line(2, 1),
            target=line(3, 2),
        )
    )
    ledger.append(settled(2, line(2, 1), action="rollback"))

    with pytest.raises(Superseded):  # the proof comes too late
        ledger.append(settled(2, line(3, 2)))


def test_notes_stand_in_the_chain_and_outside_the_compare_and_swap(ledger: Ledger) -> None:
    first = ledger.append(settled(0, line(1)))
    noted = [ledger.append(note()) for _ in range(2)]
    ledger.append(note("faces"))

    assert [(n.seq, n.parent, n.generation) for n in noted] == [(2, None, 1), (3, None, 1)]
    assert ledger.snapshot() == ({"digits": first}, 1, "main")
    assert ledger.head("faces") is None
    assert ledger.append(settled(1, line(2, 1))).seq == 5
    assert ledger.verify() == 5


# -- generation ----------------------------------------------------------------------------------


def test_the_generation_is_the_row_that_last_changed_the_pins(ledger: Ledger) -> None:
    def step(parent: int, kind: Kind, held: Line, target: Line | None = None) -> int:
        draft = Draft(
            model="digits",
            parent=parent,
            kind=kind,
            action="x",
            line=held,
            target=target,
            holder="anna" if target else None,
        )
        return ledger.append(draft).generation

    staged, promoted = line(1, candidates=(2,)), line(2, 1)
    assert step(0, Kind.SETTLED, line(1)) == 1
    assert step(1, Kind.PREPARED, line(1), staged) == 2  # another slot is loaded
    assert step(2, Kind.SETTLED, staged) == 2  # it was pinned already
    assert ledger.append(note()).generation == 2
    assert step(3, Kind.COMMITTED, staged, promoted) == 5  # the pointer
    assert step(5, Kind.SETTLED, promoted) == 5  # same slots, same default, same way back
    assert ledger.append(settled(0, line(), model="faces")).generation == 7
    assert step(6, Kind.SETTLED, line(2)) == 8  # one slot less
    assert ledger.snapshot().generation == 8


def test_a_plan_changes_no_pins_until_it_is_carried_out(ledger: Ledger) -> None:
    staged, promoted = line(1, candidates=(2,)), line(2, 1)
    ledger.append(settled(0, staged))
    plan = Draft(
        model="digits", parent=1, kind=Kind.COMMITTED, action="x", line=staged, target=promoted
    )

    planned = ledger.append(plan)
    applied = ledger.append(replace(plan, parent=2, holder="anna"))

    assert (planned.generation, applied.generation) == (1, 2)
    assert planned.head.planned
    assert planned.head.default == slot(1)
    assert applied.head.default == slot(2)


def test_an_applied_plan_keeps_its_number_only_straight_behind_it(ledger: Ledger) -> None:
    staged, promoted = line(1, candidates=(2,)), line(2, 1)
    ledger.append(settled(0, staged))
    plan = Draft(
        model="digits", parent=1, kind=Kind.COMMITTED, action="x", line=staged, target=promoted
    )
    ledger.append(plan)
    other = replace(plan, model="faces", parent=0)

    assert ledger.append(other).generation == 1  # and its pull request holds 3
    assert ledger.append(replace(plan, parent=2, holder="anna")).generation == 4


def test_what_ends_a_plan_outranks_its_pull_request(ledger: Ledger) -> None:
    staged, promoted = line(1, candidates=(2,)), line(2, 1)
    ledger.append(settled(0, staged))
    plan = Draft(
        model="digits", parent=1, kind=Kind.COMMITTED, action="x", line=staged, target=promoted
    )
    ledger.append(plan)

    assert ledger.append(settled(2, staged)).generation == 3


def test_a_plan_as_the_first_row_of_a_model_pins_nothing(ledger: Ledger) -> None:
    plan = Draft(
        model="digits",
        parent=0,
        kind=Kind.PREPARED,
        action="x",
        line=line(),
        target=line(candidates=(1,)),
    )
    assert ledger.append(plan).generation == 0
    assert ledger.snapshot().pinned == {}
    assert ledger.append(replace(plan, parent=1, holder="anna")).generation == 1
    assert list(ledger.snapshot().pinned) == ["digits"]
    other = replace(plan, model="faces")
    ledger.append(other)
    overtakes = ledger.append(settled(0, line(7), model="words"))
    ended = ledger.append(settled(3, line(), model="faces"))
    assert (overtakes.generation, ended.generation) == (4, 5)  # an empty model is pinned now


def test_a_plan_that_others_overtook_ends_where_it_stood(ledger: Ledger) -> None:
    staged, promoted = line(1, candidates=(2,)), line(2, 1)
    ledger.append(settled(0, staged))
    plan = Draft(
        model="digits", parent=1, kind=Kind.COMMITTED, action="x", line=staged, target=promoted
    )
    ledger.append(plan)

    assert ledger.append(settled(0, line(7), model="faces")).generation == 3
    assert ledger.append(settled(2, staged)).generation == 3


def test_a_row_above_the_pins_that_were_published_without_the_ledger(ledger: Ledger) -> None:
    ledger.append(settled(0, line(2, 1)))

    recorded = ledger.append(settled(1, line(2, 1), action="rollback"), above=41)

    assert (recorded.seq, recorded.generation) == (42, 42)  # though it changes no pins
    assert ledger.append(note(), above=7).seq == 43
    assert ledger.snapshot().generation == 42
    assert ledger.verify() == 3


# -- what must not get in ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"reason": "nul \0"}, UsageError),
        ({"reason": "bytes \udce4"}, UsageError),
        ({"model": "a/b"}, UsageError),
        ({"evidence": {"loss": float("nan")}}, ValueError),
        ({"parent": None}, ValueError),
        ({"line": None}, ValueError),
        ({"target": Line()}, ValueError),
    ],
)
def test_a_row_that_cannot_be_is_refused_before_the_database(
    changes: dict[str, object], error: type[Exception]
) -> None:
    good = {"model": "digits", "parent": 0, "kind": Kind.SETTLED, "action": "x", "line": Line()}

    with pytest.raises(error):
        Draft(**{**good, **changes})  # type: ignore[arg-type]


def test_a_row_that_could_not_be_rendered_leaves_nothing(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="1024"):
        ledger.append(settled(0, Line((slot(1, workers=5000),))))

    assert ledger.history() == []
    assert ledger.append(settled(0, line(1))).seq == 1


# -- leases --------------------------------------------------------------------------------------


def test_a_lease_keeps_others_out_until_it_is_released(ledger: Ledger) -> None:
    assert ledger.take_lease("digits", "anna")
    assert not ledger.take_lease("digits", "bert")
    assert ledger.take_lease("digits", "anna")
    assert ledger.take_lease("faces", "bert")

    found = ledger.find_lease("digits")
    assert found is not None
    assert (found.holder, found.model) == ("anna", "digits")
    assert 14.5 < (found.expires_at - found.renewed_at).total_seconds() < 15.5

    ledger.release("anna")
    assert ledger.find_lease("digits") is None
    assert ledger.find_lease("faces") is not None
    assert not ledger.renew("anna")


def test_a_lease_that_nobody_renews_ends(subject: Subject) -> None:
    ledger = subject.ledger
    ledger.take_lease("digits", "anna")
    subject.age_leases()

    assert ledger.find_lease("digits") is None
    assert ledger.take_lease("digits", "bert")
    assert not ledger.renew("anna")
    assert ledger.renew("bert")


def test_of_eight_takers_one_gets_the_lease(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda n: ledger.take_lease("digits", f"h{n}"), range(8)))

    assert sorted(taken) == [False] * 7 + [True]


def test_the_keeper_renews_and_releases(subject: Subject) -> None:
    ledger = subject.ledger
    ledger.take_lease("digits", "anna")
    subject.age_leases()
    renewed = threading.Event()
    beat = ledger.renew

    def renew(holder: str) -> bool:
        held = beat(holder)
        renewed.set()
        return held

    ledger.renew = renew  # type: ignore[method-assign]
    with LeaseKeeper(ledger, "anna", every_s=0.05):
        assert renewed.wait(10)
        assert ledger.find_lease("digits") is not None

    assert ledger.find_lease("digits") is None


def test_a_keeper_survives_a_ledger_that_is_away() -> None:
    twice = threading.Semaphore(0)

    class Away(MemoryLedger):
        def renew(self, holder: str) -> bool:
            twice.release()
            raise LedgerUnreachable("away")

        def release(self, holder: str) -> None:
            raise LedgerUnreachable("away")

    with LeaseKeeper(Away(), "anna", every_s=0.01):
        assert twice.acquire(timeout=10)
        assert twice.acquire(timeout=10)


# -- many processes, on the real databases -------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    made = sql_subject(sql_url(request.param, request, tmp_path))
    yield made
    assert isinstance(made.ledger, SqlLedger)
    made.ledger.close()


def race_alone(url: str, deployment: str, version: int) -> int:
    ledger = open_ledger(url, deployment)
    alone = threading.Barrier(1)
    answer = race(ledger, alone, version)
    ledger.close()
    return answer


def test_of_eight_processes_exactly_one_wins(shared: Subject) -> None:
    shared.ledger.append(settled(0, line(1)))

    with ProcessPoolExecutor(8, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(race_alone, shared.url, shared.deployment, v) for v in range(2, 10)]
        answers = [run.result() for run in runs]

    assert sorted(answers) == [-2] * 7 + [2]
    assert shared.ledger.verify() == 2


def test_deployments_in_one_database_do_not_mix(shared: Subject) -> None:
    other = open_ledger(shared.url, f"other-{shared.deployment}")
    shared.ledger.append(settled(0, line(1)))
    shared.ledger.take_lease("digits", "anna")

    assert other.head("digits") is None
    assert other.append(settled(0, line(2))).seq == 1
    assert other.take_lease("digits", "bert")
    other.release("anna")
    assert other.verify() == shared.ledger.verify() == 1
    assert shared.ledger.find_lease("digits") is not None
    other.close()
