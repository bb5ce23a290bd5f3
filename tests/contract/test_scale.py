"""Scaling on twin servers: rows, proof, undoing, and what does not fit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelswitch.agent.cache import archive_name
from modelswitch.archive.verify import verify
from modelswitch.cli.story import story
from modelswitch.errors import Behind, NotProven, Refused
from modelswitch.ledger import Event
from modelswitch.line import Head, Kind, Slot
from modelswitch.moves import Intent, proof
from modelswitch.moves.news import of_row
from modelswitch.moves.proof import Outcome
from modelswitch.reports import Capacity
from modelswitch.servers.twin import TwinServer
from modelswitch.settings import Timeouts
from tests.site import Site, wait_for
from tests.terminal import Terminal


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


def workers(site: Site, slot: Slot) -> list[int]:
    return [site.report(name).slot("digits", slot.label).workers for name in site.twins]


def head(site: Site) -> Head:
    event = site.ledger.head("digits")
    assert event is not None
    return event.head


def serving(site: Site) -> Slot:
    return head(site).line.serving[0]


def rows(site: Site) -> list[tuple[Kind, str]]:
    return [(e.kind, e.action) for e in reversed(site.ledger.history("digits"))]


def test_more_workers_stand_when_every_server_has_them(site: Site) -> None:
    one = site.slot("1")
    site.promote(one)
    before = len(rows(site))

    moved = site.scale(one, 3)

    assert (moved.before.workers, moved.after.workers, moved.changed) == (1, 3, True)
    assert workers(site, one) == [3, 3]
    assert rows(site)[before:] == [(Kind.PREPARED, "scale"), (Kind.SETTLED, "scale")]
    assert serving(site).workers == 3
    assert site.all_answer() == {"1"}


def test_a_second_call_writes_nothing(site: Site) -> None:
    one = site.slot("1")
    site.promote(one)
    site.scale(one, 2)
    before = len(rows(site))

    assert not site.scale(one, 2).changed
    assert len(rows(site)) == before


def test_fewer_workers_are_one_row_and_reported(site: Site) -> None:
    one = site.slot("1")
    site.promote(one)
    site.scale(one, 4)
    before = len(rows(site))

    moved = site.scale(one, 1)

    assert [s.state for s in moved.servers] == ["proven", "proven"]
    assert workers(site, one) == [1, 1]
    assert rows(site)[before:] == [(Kind.SETTLED, "scale")]


def test_an_archive_that_was_changed_meanwhile_stands_in_for_nothing(site: Site) -> None:
    one = site.slot("1")
    site.promote(one)
    site.scale(one, 2)
    files = [twin.model_store / archive_name(one.digest) for twin in site.twins.values()]
    for file in files:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)

    site.scale(one, 1)

    assert workers(site, one) == [1, 1]
    for file in files:  # fetched anew, from the archive store
        verify(file, one.digest)


def ended_while_default(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Labels whose workers are ended, or that are unloaded, while their model's name means them."""
    found: list[str] = []
    for twin in site.twins.values():
        monkeypatch.setattr(twin, "workers", watched(twin, twin.workers, found))
        monkeypatch.setattr(twin, "unregister", watched(twin, twin.unregister, found))
    return found


def watched(twin: TwinServer, act: Any, found: list[str]) -> Any:
    async def watch(model: str, label: str, count: int = 0) -> None:
        served = await twin.describe(model)
        version = served.versions.get(label) if served else None
        if served and version and served.default == label and len(version.workers) > count:
            found.append(label)
        await (act(model, label, count) if act.__name__ == "workers" else act(model, label))

    return watch


def test_no_worker_is_ended_while_the_name_means_its_slot(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = site.slot("1")
    site.promote(one)
    site.scale(one, 3)
    found = ended_while_default(site, monkeypatch)

    site.scale(one, 1)

    assert site.all_answer() == {"1"}
    assert all(site.report(n).proves("digits", one.label, one.digest) for n in site.twins)
    wait_for(lambda: all(labels(site, n) == {one.label} for n in site.twins))
    assert found == []


def labels(site: Site, name: str) -> set[str]:
    served = site.on_loop(lambda: site.twins[name].describe("digits"))
    return set(served.versions) - {"placeholder"} if served else set()


def test_an_agent_that_is_killed_while_a_stand_in_answers_puts_it_right(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = site.slot("1", timeout_s=3)
    site.promote(one)
    site.scale(one, 3)
    found = ended_while_default(site, monkeypatch)
    scaling = threading.Thread(target=site.scale, args=(one, 1))
    scaling.start()
    standin = one.label + "-standin"
    wait_for(lambda: default(site, "a") == standin)
    site.stop("a")
    assert default(site, "a") == standin
    site.start("a")
    scaling.join(30)
    assert not scaling.is_alive()
    wait_for(lambda: all(labels(site, n) == {one.label} for n in site.twins))
    assert workers(site, one) == [1, 1]
    assert site.all_answer() == {"1"}
    assert found == []


def test_a_rollback_does_not_wait_for_a_slot_to_go_down(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = site.slot("1"), site.slot("2", timeout_s=3)
    site.promote(one)
    site.promote(two)
    site.scale(two, 3)
    found = ended_while_default(site, monkeypatch)
    monkeypatch.setattr(site.moves.proof, "wait_fewer", lambda *_: Outcome(ok=True))
    site.scale(two, 1)
    wait_for(lambda: default(site, "a") == two.label + "-standin")

    site.rollback()

    assert site.all_answer() == {"1"}
    wait_for(lambda: all(labels(site, n) == {one.label} for n in site.twins))
    assert workers(site, one) == [1, 1]
    assert found == []


def default(site: Site, name: str) -> str | None:
    served = site.on_loop(lambda: site.twins[name].describe("digits"))
    return served.default if served else None


def test_what_one_server_cannot_start_is_undone_on_all(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = site.slot("1")
    site.promote(one)
    site.twins["b"].faults.most_workers = 2
    site.moves.proof.timeouts = Timeouts(load_s=0.1)
    monkeypatch.setattr(proof, "_SLACK_S", 4.0)

    with pytest.raises(NotProven, match=r"digits@1 was not scaled: server b: 2 of 3 workers"):
        site.scale(one, 3)

    assert serving(site).workers == 1
    wait_for(lambda: workers(site, one) == [1, 1])
    assert site.all_answer() == {"1"}


def test_a_server_that_is_down_blocks_more_and_follows_to_fewer(site: Site) -> None:
    one = site.slot("1")
    site.promote(one)
    site.scale(one, 2)
    site.silence("b")
    with pytest.raises(NotProven, match=r"digits@1 was not scaled: server b is down.*Nothing was"):
        site.scale(one, 3)
    with pytest.raises(Behind, match=r"digits@1 goes down to 1 of 2 workers.*Behind: server b"):
        site.scale(one, 1)
    site.start("b")
    wait_for(lambda: workers(site, one) == [1, 1])


def test_a_candidate_and_a_way_back_scale_too(site: Site) -> None:
    one, two, three = (site.slot(n) for n in "123")
    site.promote(one)
    site.promote(two)
    site.stage(three)
    for slot in (one, three):
        site.scale(slot, 2)
        assert workers(site, slot) == [2, 2]
    assert site.all_answer() == {"2"}
    assert workers(site, two) == [1, 1]


def test_what_is_promoted_has_as_many_workers_before_the_pointer_moves(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    site.scale(one, 3)
    site.stage(two)
    assert workers(site, two) == [1, 1]
    seen: list[int] = []

    def watch(event: Event) -> None:
        if event.kind is Kind.COMMITTED:
            seen.extend(workers(site, two))

    with appending(site, watch):
        site.promote(two)

    assert seen == [3, 3]


def test_promote_takes_a_number_of_workers(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    site.scale(one, 2)
    site.moves.promote("digits", two, Intent("a test"), workers=1)
    assert serving(site).workers == 1
    assert workers(site, two) == [1, 1]
    with pytest.raises(Refused, match=r"digits@2 is there already, with 1 worker") as refused:
        site.moves.promote("digits", two, Intent("a test"), workers=2)
    assert "modelswitch scale digits@2 --workers 2" in str(refused.value.next)


def test_a_rollback_keeps_the_workers_that_serve(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    site.promote(two)
    site.scale(two, 3)
    site.rollback()
    wait_for(lambda: workers(site, one) == [3, 3])
    assert site.all_answer() == {"1"}


def test_a_killed_scaling_ends_where_it_came_from(site: Site) -> None:
    one = site.slot("1")
    site.promote(one)
    killed = threading.Event()

    def kill(event: Event) -> None:
        if event.kind is Kind.PREPARED:
            killed.set()
            raise KeyboardInterrupt

    with appending(site, kill), pytest.raises(KeyboardInterrupt):
        site.scale(one, 2)
    assert killed.is_set()
    assert head(site).is_open
    site.moves.conclude("digits", Intent("resume"), now=True)
    wait_for(lambda: workers(site, one) == [1, 1])
    assert serving(site) == one


def test_rows_are_told_by_what_they_change(site: Site) -> None:
    one = site.slot("1")
    site.promote(one)
    site.scale(one, 2)
    site.scale(one, 1)
    history = site.ledger.history("digits")[:3]
    by_seq = {e.seq: e for e in site.ledger.history("digits")}
    told = [story(e, by_seq[e.parent or 0]) for e in history]
    assert told == [
        "scale: digits@1 has 1 worker (before: 2)",
        "scale: digits@1 has 2 workers (before: 1) (proven on a, b)",
        "scale digits@1 to 2 workers: starting beside what serves",
    ]
    news = of_row(history[1], by_seq[history[1].parent or 0], {})
    assert news is not None
    assert (news.reason, news.is_bad) == ("Scaled", False)


class appending:  # noqa: N801 reads as the context it is
    """Calls `seen` with each row, after it was appended."""

    def __init__(self, site: Site, seen: object) -> None:
        self.ledger, self.seen = site.ledger, seen

    def __enter__(self) -> None:
        self.append = self.ledger.append

        def append(draft: object, **kwargs: object) -> Event:
            event = self.append(draft, **kwargs)  # type: ignore[arg-type]
            self.seen(event)  # type: ignore[operator]
            return event

        self.ledger.append = append  # type: ignore[method-assign]

    def __exit__(self, *exc: object) -> None:
        self.ledger.append = self.append  # type: ignore[method-assign]


# The line, with sums

SMALL = Capacity(cores=4, memory_bytes=2_000_000_000)


@pytest.fixture
def terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminal]:
    monkeypatch.chdir(tmp_path)
    with Site(tmp_path, capacity=SMALL, worker_bytes=518_000_000) as site:
        yield Terminal(site, capsys)


def test_a_wish_that_does_not_fit_is_refused_with_the_sum(terminal: Terminal) -> None:
    terminal.stand("1")
    before = len(rows(terminal.site))
    for line in (
        ("scale", "digits", "--workers", "4", "--reason", "more"),
        ("scale", "digits", "--workers", "4", "--dry-run"),
    ):
        said = terminal(*line, "--json")
        assert said.exit == 1
        assert said.document["error"] == {
            "code": "refused",
            "message": "digits@1 does not fit: digits@1: 4 workers × 520 MB = 2.1 GB, server a has "
            "2.0 GB (and 1 more like it). Nothing was changed.",
            "next": "fewer workers, a pool of larger servers, or --overcommit",
        }
    assert len(rows(terminal.site)) == before
    done = terminal("scale", "digits", "--workers", "4", "--reason", "more", "--overcommit")
    assert done.exit == 0, done.err
    assert done.out == "digits@1 has 4 workers, READY on a, b. Before: 1.\n"


def test_a_promotion_with_more_workers_than_cores_is_refused(terminal: Terminal) -> None:
    terminal.stand("1")
    terminal.register("2")
    line = ("promote", "digits@2", "--reason", "better")
    cores = terminal(*line, "--workers", "5")
    assert "5 workers × 1 thread = 5 cores, server a has 4" in cores.err
    done = terminal(*line)
    assert done.exit == 0, done.err
    assert terminal.site.all_answer() == {"2"}
    assert terminal("rollback", "digits", "--reason", "a rollback never asks").exit == 0


def test_a_budget_counts_until_somebody_has_measured(terminal: Terminal) -> None:
    terminal.stand("1")
    terminal.register("2")
    terminal.registry.set_tag(
        "digits", "2", "modelswitch.about", '{"memory_budget_bytes": 900000000}'
    )
    said = terminal("promote", "digits@2", "--reason", "better", "--workers", "2")
    assert said.exit == 1
    assert "digits@2: 2 workers × 900 MB + digits@1: 1 × 520 MB = 2.3 GB" in said.err


def test_what_a_slot_costs_is_shown(terminal: Terminal) -> None:
    terminal.stand("1")
    assert terminal("scale", "digits", "--workers", "2", "--reason", "more").exit == 0
    shown = terminal("show", "digits@1")
    assert "memory on each server: 2 × 520 MB = 1.0 GB" in shown.out
    archive = terminal("show", "digits@1", "--json").data["archives"][0]
    assert archive["worker_memory_bytes"] == 520_000_000
    wait_for(lambda: "1.0 GB" in terminal("status").out)


def test_a_servers_label_is_told_as_the_reference_that_it_stands_for(terminal: Terminal) -> None:
    terminal.stand("1")
    line = ("--workers", "2", "--reason", "more")
    refused = terminal("scale", "digits@1-8273554e", *line, "--json")
    assert (refused.exit, refused.document["error"]["code"]) == (1, "not_found")
    assert refused.document["error"]["next"] == "is digits@1:8273554e meant?"
    other = terminal("scale", "digits@champion", *line, "--json")
    assert "meant" not in str(other.document["error"]["next"])
