"""What a person sees: words on stdout, talk on stderr, exit codes, questions, Ctrl-C."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelswitch.cli.progress import Progress
from modelswitch.cli.session import Session
from modelswitch.errors import LedgerUnreachable
from tests.site import Site, wait_for
from tests.terminal import Terminal


class AtTerminal(Session):
    """Somebody sits there, and can be asked."""

    @property
    def is_interactive(self) -> bool:
        return not self.json


@pytest.fixture
def terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminal]:
    monkeypatch.chdir(tmp_path)  # whose settings and state folder are those of the site
    with Site(tmp_path) as site:
        yield Terminal(site, capsys)


@pytest.fixture
def bare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Terminal:
    """A site whose agents do not run: for what needs no server."""
    monkeypatch.chdir(tmp_path)
    return Terminal(Site(tmp_path, servers=()), capsys)


def test_promote_says_where_it_serves_and_what_the_way_back_is(terminal: Terminal) -> None:
    terminal.stand("1")
    terminal.register("2", "3")
    staged = terminal("promote", "digits@2", "--to", "Staging", "--reason", "try")
    label = terminal.site.slot("2").label
    assert "digits@2 is in Staging on 2 servers, proven in" in staged.out
    assert f"http://127.0.0.1:8080/predictions/digits/{label}" in staged.out
    replaced = terminal("promote", "digits@3", "--to", "staging", "--reason", "try")
    assert "It replaces the candidate digits@2." in replaced.out
    done = terminal("promote", "digits@3", "--reason", "better")
    assert done.out.startswith("digits@3 serves on 2 servers, proven in ")
    assert "Before: digits@1, warm as the way back. MLflow's marks: done." in done.out
    assert done.err == ""
    again = terminal("promote", "digits@3", "--reason", "better")
    assert (again.exit, "already; nothing was changed" in again.out) == (0, True)


def test_promote_says_how_many_workers_there_are(terminal: Terminal) -> None:
    terminal.register("1")
    words = ("--overcommit", "--reason", "first")
    said = terminal("promote", "digits@1", "--workers", "3", *words)
    assert ") 3 workers on each. " in said.out.replace("). ", ") "), said


def test_a_long_wait_is_told_in_a_log_and_ever_less_often() -> None:
    out = io.StringIO()
    progress = Progress(out, "digits@3")
    states = {"a": "proven"} | {f"pod-{i}": "pending" for i in range(7)}
    progress.step("ledger.append", {"kind": "prepared"})
    for elapsed_s in range(70):
        progress.step("fleet.wait", {"servers": states, "elapsed_s": float(elapsed_s)})
    progress.step("ledger.append", {"kind": "committed"})
    for elapsed_s in range(11):
        progress.step("fleet.wait", {"servers": {"a": "down"}, "elapsed_s": float(elapsed_s)})
    progress.step("fleet.wait", {"servers": {"a": "proven"}, "elapsed_s": 12.0})
    some = "digits@3: loading on pod-0, pod-1, pod-2, pod-3, pod-4 and 2 more"
    assert out.getvalue().splitlines() == [
        *(f"{some} ({seconds}.0 s)" for seconds in (10, 20, 40)),
        "digits@3: proving on a (10.0 s)",
    ]


def test_an_error_is_one_message_and_what_to_do_next(terminal: Terminal) -> None:
    terminal.stand("1")
    terminal.register("2")
    terminal.site.twins["a"].faults.unloadable.add(terminal.site.slot("2").label)
    said = terminal("promote", "digits@2", "--reason", "better")
    assert (said.exit, said.out) == (4, "")
    assert said.err.startswith("error: digits@2 was not promoted: server a:")
    assert said.err.splitlines()[-1] == "next: modelswitch logs digits@2"
    assert "Traceback" not in said.err.splitlines()[0]


@pytest.mark.parametrize("flag", ["--pool", "--only-in"])
def test_a_pool_without_a_name_is_not_every_pool(terminal: Terminal, flag: str) -> None:
    """As where a pipeline's variable is not set."""
    line = ("promote", "digits@1", "--to", "staging", flag, "", "--reason", "x")
    assert terminal(*line).exit == 2


def test_flags_stand_before_or_after_the_verb_and_the_later_wins(terminal: Terminal) -> None:
    terminal.stand("1", "2")
    terminal("--actor", "first", "rollback", "digits", "--reason", "slow", "--actor", "ada")
    assert terminal.site.ledger.history("digits")[0].actor.claimed == "ada"
    lifted = terminal("--actor", "bob", "quarantine", "lift", "digits@2", "--reason", "mended")
    assert lifted.exit == 0
    assert terminal.site.ledger.history("digits")[0].actor.claimed == "bob"


def test_without_a_reason_nothing_is_done_and_on_a_terminal_it_is_asked_for(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.stand("1", "2")
    refused = terminal("rollback", "digits")
    assert (refused.exit, "rollback needs a reason" in refused.err) == (2, True)
    assert terminal("rollback", "digits", "--reason", "  ").exit == 2
    assert terminal("rollback", "digits", "--reason", "…").exit == 2
    terminal.session_class = AtTerminal
    monkeypatch.setattr(sys, "stdin", io.StringIO("it is slow\ny\n"))
    done = terminal("rollback", "digits")
    assert done.exit == 0
    assert "roll back digits@2 to digits@1 on 2 servers? [Y/n]" in done.err
    assert terminal.site.ledger.history("digits")[0].reason == "it is slow"


def test_a_rollback_that_is_not_agreed_to_changes_nothing(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.stand("1", "2")
    terminal.session_class = AtTerminal
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    said = terminal("rollback", "digits", "--reason", "slow")
    assert (said.exit, "nothing was changed" in said.err) == (1, True)
    assert terminal.site.all_answer() == {"2"}
    assert terminal("rollback", "digits", "--reason", "slow", "--yes").exit == 0
    assert terminal.site.all_answer() == {"1"}


def test_rollback_is_refused_when_what_was_meant_no_longer_serves(terminal: Terminal) -> None:
    terminal.stand("1", "2")
    said = terminal("rollback", "digits", "--from", "1", "--reason", "slow")
    assert (said.exit, "digits@1 no longer serves, digits@2 does" in said.err) == (1, True)


def test_break_glass_rolls_back_without_asking_the_ledger(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.stand("1", "2")

    def away(*_: object, **__: object) -> None:
        raise LedgerUnreachable("the database does not answer")

    with monkeypatch.context() as meanwhile:
        for name in ("head", "heads", "history", "append", "snapshot"):
            meanwhile.setattr(terminal.site.ledger, name, away)
        refused = terminal("rollback", "digits", "--reason", "slow")
        assert refused.exit == 1
        assert "modelswitch rollback digits --break-glass" in refused.err
        _break_the_glass(terminal)
    told = terminal("status")
    assert told.exit == 3
    assert "a break-glass rollback: modelswitch resume records it" in told.out
    assert "the break-glass rollback is recorded" in terminal("resume").out
    assert "break-glass" not in terminal("status").out


def _break_the_glass(terminal: Terminal) -> None:
    dry = terminal("rollback", "digits", "--break-glass", "--dry-run")
    assert (dry.exit, terminal.site.all_answer()) == (3, {"2"})
    done = terminal("rollback", "digits", "--reason", "slow", "--break-glass")
    assert (done.exit, done.err) == (0, "")
    assert "marks: pending" in done.out
    assert terminal.site.all_answer() == {"1"}


@pytest.mark.parametrize("to", ["staging", "production"])
def test_a_dry_run_says_what_would_change_and_changes_nothing(terminal: Terminal, to: str) -> None:
    terminal.stand("1")
    terminal.register("2")
    rows = terminal.site.ledger.history()
    said = terminal("promote", "digits@2", "--to", to, "--dry-run")
    assert said.exit == 3
    assert f"digits: would promote to {to}: digits@1 → digits@2 on a, b" in said.out
    assert "the archive of digits@2 would be built first" in said.out
    assert terminal.site.ledger.history() == rows
    done = terminal("promote", "digits@1", "--dry-run")
    assert (done.exit, "nothing to do" in done.out) == (0, True)


def test_a_dry_run_refuses_what_the_move_would_refuse(terminal: Terminal) -> None:
    terminal.stand("1", "2")
    terminal("rollback", "digits", "--reason", "slow")
    said = terminal("promote", "digits@2", "--dry-run")
    assert (said.exit, "digits@2 is quarantined" in said.err) == (1, True)
    assert terminal("retire", "digits@1", "--dry-run").exit == 1
    assert terminal("retire", "digits", "--dry-run").exit == 3


def test_retire_unloads_a_way_back_or_the_whole_model(terminal: Terminal) -> None:
    terminal.stand("1", "2")
    said = terminal("retire", "digits@1", "--reason", "room")
    assert (said.exit, "digits@2 serves" in said.out) == (0, True)
    gone = terminal("retire", "digits", "--reason", "over")
    assert (gone.exit, "nothing serves" in gone.out) == (0, True)
    stories = terminal("history", "digits", "--limit", "2").out
    assert "retire digits: nothing of it is served" in stories
    assert "retire digits@1" in stories


def test_history_tells_each_row_in_one_line(terminal: Terminal) -> None:
    terminal.stand("1")
    terminal.register("2")
    terminal.site.twins["b"].faults.unloadable.add(terminal.site.slot("2").label)
    terminal("promote", "digits@2", "--reason", "better")
    terminal.site.twins["b"].faults.unloadable.clear()
    terminal("promote", "digits@2", "--reason", "again")
    terminal("rollback", "digits", "--reason", "slow")
    terminal("quarantine", "lift", "digits@2", "--reason", "mended")
    out = terminal("history", "digits").out
    assert "lift the quarantine of digits@2" in out
    assert "roll back digits@2 → digits@1 (digits@2 is quarantined)" in out
    assert "promote digits@2 → Production (proven on a, b)" in out
    assert "promote digits@2: undone (server b: " in out
    assert "promote digits@2: the pointer moved, to be proven" in out
    assert "promote digits@2: loading beside what serves" in out


def test_models_is_plain_text_where_nobody_looks(terminal: Terminal) -> None:
    terminal.stand("1", "2")
    lines = terminal("models").out.splitlines()
    assert re.split("  +", lines[0]) == [
        "model",
        "Production",
        "Staging",
        "way back",
        "since",
        "by",
        "healthy",
    ]
    assert lines[1].startswith("digits  2")
    assert "1 (warm)" in lines[1]
    assert "\x1b" not in "".join(lines)


def test_predict_puts_the_answer_on_stdout_and_who_answered_on_stderr(
    terminal: Terminal, tmp_path: Path
) -> None:
    terminal.stand("1")
    request = tmp_path / "request.json"
    request.write_text('{"inputs": [1]}')
    said = terminal("predict", "digits", "--input", str(request))
    assert said.out == '{\n  "predictions": [\n    1\n  ]\n}\n'
    assert said.err.startswith("digits@1 (sha256:")
    refused = terminal("predict", "nothing", "--input", str(request))
    assert refused.exit == 1
    assert "nothing answered 404" in refused.err


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"inputs": [1 2]}', "line 1, column 15"),
        ("{\n  'a': 1}", "line 2, column 3"),
        ("[NaN]", "NaN is no JSON number"),
        ("\udcff", "is not JSON"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(
    bare: Terminal, tmp_path: Path, text: str, place: str
) -> None:
    request = tmp_path / "request.json"
    request.write_bytes(text.encode(errors="surrogateescape"))
    said = bare("predict", "digits", "--input", str(request))
    assert said.exit == 2
    assert place in said.err
    assert bare.switches == []


def test_ctrl_c_says_what_is_open_and_what_concludes_it(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.stand("1")
    terminal.register("2")
    proof = "modelswitch.moves.proof.Proof.wait_warm"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(proof, interrupt)
        said = terminal("promote", "digits@2", "--reason", "better")
    assert said.exit == 130
    assert "error: interrupted; open: digits" in said.err
    assert said.err.endswith("next: modelswitch resume\n")
    resumed = terminal("resume")
    assert "digits is concluded: digits@1 serves." in resumed.out
    assert terminal("resume").out.startswith("nothing was open")


def test_ctrl_c_before_the_ledger_leaves_nothing_open(
    bare: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("modelswitch.refs.parse_ref", interrupt)
    said = bare("promote", "digits@2", "--reason", "x", "--json")
    assert (said.exit, said.document["error"]["code"]) == (130, "interrupted")
    assert said.document["error"]["message"] == "interrupted; no move is open"


def test_the_unexpected_has_a_traceback_only_with_debug(
    bare: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("modelswitch.refs.parse_ref", fail)
    said = bare("show", "digits@2")
    assert said.exit == 1
    assert said.err.splitlines() == [
        "error: unexpected: ZeroDivisionError: of all things",
        "next: --debug shows the traceback",
    ]
    assert "Traceback" in bare("--debug", "show", "digits@2").err
    assert "Traceback" in bare("show", "digits@2", "--debug", "--json").err


def test_a_reader_that_leaves_early_changes_no_exit_code(
    bare: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", closefd=True) as out:
        monkeypatch.setattr(sys, "stdout", out)
        from modelswitch.cli.main import run

        assert run(["history"], session=Session(open_switch=bare._open)) == 0
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("value", "allowed"), [("loud", False), ("json:INFO", True), ("debug", True)]
)
def test_modelswitch_log_is_a_style_a_level_or_both(
    bare: Terminal, monkeypatch: pytest.MonkeyPatch, value: str, allowed: bool
) -> None:
    monkeypatch.setenv("MODELSWITCH_LOG", value)
    said = bare("history")
    assert said.exit == (0 if allowed else 2)
    assert ("MODELSWITCH_LOG" in said.err) is not allowed


def test_logs_carry_the_correlation_id_that_was_handed_in(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.stand("1", "2")
    monkeypatch.setenv("MODELSWITCH_CORRELATION_ID", "from-outside")
    monkeypatch.setenv("MODELSWITCH_LOG", "json:INFO")
    said = terminal("rollback", "digits", "--reason", "slow")
    assert '"correlation_id": "from-outside"' in said.err
    assert terminal.site.ledger.history("digits")[0].correlation_id == "from-outside"
    assert "from-outside" not in said.out


def test_timeout_limits_the_wait_for_servers(terminal: Terminal) -> None:
    terminal.stand("1")
    terminal("models", "--timeout", "3")
    timeouts = Session(flags={"timeout": 3.0, "config": None}).settings.timeouts
    assert (timeouts.load_s, timeouts.prove_s) == (3.0, 3.0)


def test_status_names_the_silent_server(terminal: Terminal) -> None:
    terminal.stand("1")
    wait_for(lambda: terminal("status").exit == 0)
    terminal.site.silence("b")
    said = terminal("status")
    assert said.exit == 3
    assert "down: no heartbeat since 2020" in said.out
    assert "no local stack runs here" in said.out
    assert terminal("agent", "forget", "b", "--dry-run").exit == 3
    assert terminal("agent", "forget", "b").exit == 0
    assert terminal("status").exit == 0
