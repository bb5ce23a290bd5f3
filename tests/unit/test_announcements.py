"""What a fleet is told to announce: each move that was settled, once, and never at its cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from modelswitch.effects import set_correlation_id
from modelswitch.errors import FleetUnreachable, LedgerUnreachable
from modelswitch.fleet import FolderFleet
from modelswitch.fleet.protocol import News
from modelswitch.line import Kind
from modelswitch.moves import Intent
from modelswitch.moves.news import of_row
from tests.site import Site
from tests.terminal import Terminal


class Listening(FolderFleet):
    """Keeps what it was told; refuses it when it `is_away`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.heard: list[News] = []
        self.is_away = False

    def announce(self, news: News) -> None:
        if self.is_away:
            raise FleetUnreachable("events is forbidden (HTTP 403)")
        self.heard.append(news)

    def hear(self) -> News:
        """The only one since it was last asked."""
        (news,) = self.heard
        self.heard.clear()
        return news


@pytest.fixture
def fleet(tmp_path: Path) -> Listening:
    return Listening(tmp_path / ".modelswitch" / "fleet")


@pytest.fixture
def terminal(
    tmp_path: Path,
    fleet: Listening,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Terminal]:
    monkeypatch.chdir(tmp_path)
    with Site(tmp_path, fleet=fleet) as site:
        yield Terminal(site, capsys)


def last_row(terminal: Terminal) -> int:
    return terminal.site.ledger.history("digits")[0].seq


def test_each_switch_is_told_with_who_why_and_where_it_stands(
    terminal: Terminal, fleet: Listening
) -> None:
    terminal.stand("1")
    terminal.register("2")
    assert fleet.heard == [], "what no command of the facade did is not its news"
    terminal("promote", "digits@2", "--to", "staging", "--reason", "a look", "--actor", "anna")
    row = last_row(terminal)
    assert fleet.hear() == News(
        "default",
        "Staged",
        f"digits@2 is in Staging, by anna: a look (row {row}), proven on 2 of 2 pods",
    )
    terminal("promote", "digits@2", "--reason", "better", "--actor", "anna")
    row = last_row(terminal)
    assert fleet.hear() == News(
        "default",
        "Promoted",
        f"digits@1 → digits@2 by anna: better (row {row}), proven on 2 of 2 pods",
    )
    terminal("rollback", "digits", "--reason", "slow", "--actor", "bob")
    assert fleet.hear() == News(
        "default",
        "RolledBack",
        f"digits@2 → digits@1 by bob: slow (row {last_row(terminal)}), proven on 2 of 2 pods"
        "; digits@2 is quarantined",
    )
    terminal("retire", "digits", "--reason", "over", "--actor", "bob")
    gone = fleet.hear()
    assert gone.reason == "Retired"
    assert gone.text.startswith("digits@1 retired, nothing serves, by bob: over (row ")


def test_a_move_that_was_undone_says_what_kept_it_back(
    terminal: Terminal, fleet: Listening
) -> None:
    terminal.stand("1")
    terminal.register("2")
    terminal.site.twins["b"].faults.unloadable.add(terminal.site.slot("2").label)
    assert terminal("promote", "digits@2", "--reason", "better", "--actor", "anna").exit == 4
    news = fleet.hear()
    assert (news.reason, news.is_bad) == ("NotProven", True)
    assert news.text.startswith("digits@2 was undone, digits@1 serves, by anna: better (row ")
    assert "; pod b: " in news.text


def test_a_rollback_that_not_every_server_follows_is_told_as_such(
    terminal: Terminal, fleet: Listening
) -> None:
    terminal.stand("1", "2")
    terminal.site.silence("b")
    assert terminal("rollback", "digits", "--reason", "slow").exit == 4
    news = fleet.hear()
    assert (news.reason, news.is_bad) == ("RolledBack", True)
    assert "proven on 1 of 2 pods" in news.text


def test_a_break_glass_rollback_is_told_without_the_ledger(
    terminal: Terminal, fleet: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.stand("1", "2")

    def away(*_: object, **__: object) -> None:
        raise LedgerUnreachable("the database does not answer")

    for name in ("head", "heads", "history", "append", "snapshot"):
        monkeypatch.setattr(terminal.site.ledger, name, away)
    line = ("rollback", "digits", "--reason", "slow", "--actor", "bob", "--break-glass")
    assert terminal(*line).exit == 0
    assert fleet.hear() == News(
        "default",
        "RolledBack",
        "digits@2 → digits@1 by bob: slow (break-glass), proven on 2 of 2 pods",
    )


def test_what_changed_nothing_is_no_news(terminal: Terminal, fleet: Listening) -> None:
    terminal.stand("1", "2")
    assert terminal("promote", "digits@2", "--reason", "again").exit == 0
    assert terminal("resume").exit == 0
    terminal.site.silence("b")
    assert terminal("promote", "digits@1", "--reason", "b is down").exit == 4
    assert fleet.heard == []


def test_each_row_is_told_once_by_a_facade_that_lives_on(
    terminal: Terminal, fleet: Listening
) -> None:
    set_correlation_id("one-program")
    switch = terminal._open(terminal.site.settings, "anna")
    terminal.register("1", "2")
    for version in ("1", "2"):
        switch.moves.promote("digits", terminal.site.slot(version), Intent("a test"))
        switch.moves.announcer.tell("digits")
        switch.moves.announcer.tell("digits")
    set_correlation_id(None)
    assert [news.text.partition(" by ")[0] for news in fleet.heard] == [
        "nothing → digits@1",
        "digits@1 → digits@2",
    ]


def test_a_refused_announcement_changes_no_commands_end(
    terminal: Terminal, fleet: Listening
) -> None:
    terminal.stand("1", "2")
    fleet.is_away = True
    done = terminal("rollback", "digits", "--reason", "slow")
    assert (done.exit, done.err) == (0, "")
    terminal.register("3")
    assert terminal("promote", "digits@3", "--reason", "better").exit == 0


def test_of_a_thousand_that_failed_one_is_named_and_the_rest_counted(terminal: Terminal) -> None:
    terminal.stand("1")
    rows = terminal.site.ledger.history("digits")
    settled, opened = rows[0], next(row for row in rows if row.seq == rows[0].parent)
    states = {f"pod-{n}": {"state": "failed", "error": "boom\nKeyError: 'w'"} for n in range(1000)}
    undone = replace(settled, line=opened.line, evidence={"servers": states})
    news = of_row(undone, opened, {})
    assert news is not None
    assert news.text.endswith("; pod pod-0: KeyError: 'w' (and 999 more)")


def test_a_candidate_kept_to_one_pool_is_that_pools_news(terminal: Terminal) -> None:
    terminal.stand("1")
    row = terminal.site.ledger.history("digits")[0]
    candidate = replace(terminal.site.slot("2"), pool="trial")
    opened = replace(row, kind=Kind.PREPARED, target=row.head.line.staged(candidate))
    news = of_row(replace(row, line=opened.target), opened, {})
    assert news is not None
    assert (news.pool, news.reason) == ("trial", "Staged")
