"""Two commands on one model at once, and Ctrl-C in one: everybody is told, nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelswitch.effects import watching
from modelswitch.errors import AtWork, ModelSwitchError, NotProven, Superseded
from modelswitch.line import Kind
from modelswitch.moves import Intent
from tests.crash.story import assert_one_story
from tests.site import Site, wait_for
from tests.terminal import MemoryRegistry, Terminal, TwinSwitch


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


class InTheMiddle:
    """A command in a thread that has written its first row and waits for servers to load."""

    def __init__(self, site: Site, act: Callable[[], object]) -> None:
        self.site = site
        self.error: ModelSwitchError | None = None
        self._thread = threading.Thread(target=self._run, args=(act,))

    def __enter__(self) -> InTheMiddle:
        self._thread.start()
        wait_for(lambda: self.site.ledger.head("digits").head.kind is Kind.PREPARED)
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self, act: Callable[[], object]) -> None:
        try:
            act()
        except ModelSwitchError as error:
            self.error = error


@pytest.fixture
def loading(site: Site) -> Iterator[InTheMiddle]:
    """1 serves; 2 is being promoted, and cannot load before the test lets it."""
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    for twin in site.twins.values():
        twin.load_ticks = 10**9
    with InTheMiddle(site, lambda: site.promote(two)) as command:
        yield command
        let_load(site)


def let_load(site: Site) -> None:
    for twin in site.twins.values():
        twin.load_ticks = 2
        twin._now += 2 * 10**9


def test_a_second_command_is_told_who_is_at_work(site: Site, loading: InTheMiddle) -> None:
    with pytest.raises(AtWork, match="another command is at work") as told:
        site.stage(site.slot("3"))
    assert f"process {os.getpid()}" in told.value.message
    with pytest.raises(AtWork, match="is at work"):
        site.moves.conclude("digits", Intent("resume"))
    let_load(site)
    wait_for(lambda: site.all_answer() == {"2"})


def test_resume_concludes_the_others_while_one_is_at_work(site: Site, loading: InTheMiddle) -> None:
    with site.moves._at_work("zeta") as work:
        target = work.head.line.staged(site.slot("1", "zeta"))
        work.append(work.head.prepare(target), "stage", Intent("will be killed"))
    switch = TwinSwitch(site, MemoryRegistry(), None)
    with pytest.raises(AtWork, match="digits"):
        switch.resume()
    assert not site.ledger.head("zeta").head.is_open
    assert site.ledger.head("digits").head.is_open


def test_resume_now_wins_and_the_living_command_is_told(site: Site, loading: InTheMiddle) -> None:
    moved = site.moves.conclude("digits", Intent("enough"), now=True)
    assert moved is not None
    let_load(site)
    wait_for(lambda: loading.error)
    assert isinstance(loading.error, Superseded)
    assert "with a resume" in loading.error.message
    assert_one_story(site, "digits")
    assert site.all_answer() == {"1"}


def test_a_rollback_stands_on_what_another_has_prepared(site: Site) -> None:
    zero, one, two = (site.slot(n) for n in "123")
    site.promote(zero)
    site.promote(one)
    for twin in site.twins.values():
        twin.load_ticks = 10**9
    with InTheMiddle(site, lambda: site.promote(two)) as command:
        site.rollback()
        assert site.all_answer() == {"1"}
        let_load(site)
    assert isinstance(command.error, Superseded)
    assert "rollback" in command.error.message
    assert_one_story(site, "digits")
    assert site.all_answer() == {"1"}


def test_a_server_that_forgets_everything_while_it_loads_delays_and_loses_nothing(
    site: Site, loading: InTheMiddle
) -> None:
    site.twins["a"].restart()
    let_load(site)
    loading._thread.join(30)
    # The command may give it up or see it through: the story is one either way.
    assert loading.error is None or isinstance(loading.error, NotProven)
    assert_one_story(site, "digits")


def test_a_candidate_that_failed_may_be_staged_again_at_once(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    for twin in site.twins.values():
        twin.faults.unloadable.add(two.label)
    with pytest.raises(NotProven):
        site.stage(two)
    for twin in site.twins.values():
        twin.faults.unloadable.clear()
    assert [s.state for s in site.stage(two).servers] == ["proven", "proven"]


@pytest.mark.parametrize("line", [("promote", "digits@2"), ("rollback", "digits")])
def test_ctrl_c_at_any_boundary_says_what_is_open(
    site: Site,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: tuple[str, ...],
) -> None:
    monkeypatch.chdir(site.folder)
    terminal = Terminal(site, capsys)
    terminal.register("1", "2")
    one, two = site.slot("1"), site.slot("2")
    boundary, said = 0, 130
    while said == 130:
        boundary += 1
        for slot in (one, two) if line[0] == "rollback" else (two, one):
            site.promote(slot)
        count = 0

        def interrupt(_name: str, _side: str) -> None:
            nonlocal count
            if threading.current_thread() is threading.main_thread():
                count += 1
                if count == boundary:  # noqa: B023
                    os.kill(os.getpid(), signal.SIGINT)

        with watching(boundary=interrupt):
            answer = terminal(*line, "--reason", "x", "--yes", *NO_QUARANTINE.get(line[0], ()))
        said = answer.exit
        assert said in (0, 130), answer
        is_open = site.ledger.head("digits").head.is_open
        if said == 130:
            told = "open: digits" if is_open else "no move is open"
            assert f"interrupted; {told}" in answer.err
        site.moves.publish()
        site.moves.conclude("digits", Intent("resume"))
        assert_one_story(site, "digits")
    assert boundary > 4


NO_QUARANTINE = {"rollback": ("--no-quarantine",)}
