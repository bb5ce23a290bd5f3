"""Two archives of one version: every line says which is which, and every verb asks which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelswitch.line import Slot
from modelswitch.reports import Capacity
from tests.site import Site
from tests.terminal import Terminal

ROOMY = Capacity(cores=4, memory_bytes=2_000_000_000)


@pytest.fixture
def terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminal]:
    monkeypatch.chdir(tmp_path)
    with Site(tmp_path, capacity=ROOMY, worker_bytes=520_000_000) as site:
        yield Terminal(site, capsys)


@pytest.fixture
def first(terminal: Terminal) -> Slot:
    """What serves, as version 1."""
    terminal.stand("1")
    return terminal.site.slot("1")


@pytest.fixture
def second(terminal: Terminal, first: Slot) -> Slot:
    """In Staging, of the same version."""
    del first
    slot = terminal.site.slot("1", timeout_s=2)
    terminal.site.stage(slot)
    return slot


@pytest.fixture
def request_file(tmp_path: Path) -> str:
    file = tmp_path / "request.json"
    file.write_text('{"inputs": [1]}')
    return str(file)


def typed(slot: Slot) -> str:
    return f"digits@1:{slot.digest8}"


def told(slot: Slot) -> str:
    return f"digits@1 ({slot.digest8})"


def test_predict_asks_exactly_the_archive_that_was_named(
    terminal: Terminal, first: Slot, second: Slot, request_file: str
) -> None:
    for slot in (first, second):
        said = terminal("predict", typed(slot), "--input", request_file, "--json")
        assert (said.exit, said.data["digest"]) == (0, slot.digest)
    staged = terminal("predict", "digits@staging", "--input", request_file, "--json")
    assert staged.data["digest"] == second.digest


def test_what_was_never_heard_of_is_not_found(
    terminal: Terminal, first: Slot, request_file: str
) -> None:
    del first
    unknown = "digits@1:deadbeef"
    for line in (
        ("predict", unknown, "--input", request_file),
        ("show", unknown),
        ("promote", unknown, "--reason", "x"),
        ("scale", unknown, "--workers", "2", "--reason", "x"),
        ("retire", unknown, "--reason", "x"),
    ):
        error = terminal(*line, "--json").document["error"]
        assert error["code"] == "not_found", line
        assert error["message"] == "no archive digits@1:deadbeef is known"
    for ref in ("nothing", "nothing@1"):
        said = terminal("predict", ref, "--input", request_file)
        assert said.exit == 1
        assert said.err.endswith("next: modelswitch models\n")


def test_every_verb_asks_which_of_them_is_meant(
    terminal: Terminal, first: Slot, second: Slot, request_file: str
) -> None:
    lines = (
        ("predict", "digits@1", "--input", request_file),
        ("scale", "digits@1", "--workers", "2", "--reason", "x"),
        ("retire", "digits@1", "--reason", "x"),
        ("bench", "digits@1"),
    )
    which = f"one of: {typed(first)} (serves), {typed(second)} (in Staging)"
    for line in lines:
        error = terminal(*line, "--json").document["error"]
        assert error["message"] == "digits@1 is loaded with several recipes", line
        assert error["next"] == which
    terminal.site.promote(second)
    error = terminal("promote", "digits@1", "--reason", "x", "--json").document["error"]
    assert error["next"] == f"one of: {typed(second)} (serves), {typed(first)} (way back)"


def test_what_moves_is_told_with_its_digest(terminal: Terminal, first: Slot, second: Slot) -> None:
    models = terminal("models").out
    assert f"1 ({first.digest8})" in models
    assert f"1 ({second.digest8})" in models
    shown = terminal("show", "digits@1").out
    assert f"({first.label}): serves, 1 worker" in shown
    assert f"({second.label}): in Staging, 1 worker" in shown
    # Only the candidate can be meant.
    dry = terminal("promote", "digits@1", "--dry-run").out
    assert f"{told(first)} → {told(second)} on a, b" in dry
    assert f"Production: {told(second)} · ways back: {told(first)} · Staging: none" in dry
    done = terminal("promote", "digits@1", "--reason", "faster").out
    assert done.startswith(f"{told(second)} serves on 2 servers")
    assert f"Before: {told(first)}, warm as the way back." in done
    assert f"1 ({first.digest8}, warm)" in terminal("models").out
    scaled = terminal("scale", "digits", "--workers", "2", "--reason", "more").out
    assert scaled.startswith(f"{told(second)} has 2 workers")
    unloads = terminal("retire", typed(first), "--dry-run").out
    assert f"digits: would retire: {told(first)} on a, b\n" in unloads
    assert "unloaded; no pointer moves" in unloads
    back = terminal("rollback", "digits", "--reason", "slow").out
    assert back.startswith(f"{told(first)} serves again")
    assert f"Left: {told(second)}, quarantined" in back
    assert f"({second.label}): not loaded" in terminal("show", "digits@1").out
    history = terminal("history", "digits").out
    assert f"roll back {told(second)} → {told(first)} ({told(second)} is quarantined)" in history
    assert f"promote {told(second)} → Production" in history
    assert f"scale: {told(second)} has 2 workers" in history


def test_a_quarantined_recipe_is_no_quarantined_version(
    terminal: Terminal, first: Slot, second: Slot
) -> None:
    terminal("promote", typed(second), "--reason", "faster")
    terminal("rollback", "digits", "--reason", "slow")
    assert f"{typed(second)} is quarantined, by " in terminal("show", "digits").out
    assert typed(second) in terminal("quarantine", "list").out
    assert not any("quarantined" in tag for tag in terminal.registry.known["digits", "1"].tags)
    refused = terminal("promote", typed(second), "--reason", "again", "--json").document["error"]
    assert refused["message"].startswith(f"{typed(second)} is quarantined: ")
    assert refused["next"] == f'modelswitch quarantine lift {typed(second)} --reason "…"'
    lift = ("quarantine", "lift")
    assert terminal(*lift, typed(first), "--dry-run").exit == 0
    none = terminal(*lift, typed(first), "--reason", "x", "--json").document["error"]
    assert none["message"] == f"{typed(first)} is not quarantined"
    assert terminal(*lift, typed(second), "--dry-run").exit == 3
    assert terminal(*lift, typed(second), "--reason", "mended").exit == 0
    assert f"lift the quarantine of {typed(second)}" in terminal("history", "digits").out
    assert terminal("quarantine", "list").out == "nothing is quarantined\n"


def test_what_was_lifted_already_is_dry_too(terminal: Terminal, second: Slot) -> None:
    terminal.register("2")
    terminal("promote", "digits@2", "--reason", "better")
    terminal("rollback", "digits", "--reason", "worse")
    lift = ("quarantine", "lift", f"digits@2:{terminal.site.slot('2').digest8}")
    assert terminal(*lift, "--dry-run").exit == 3
    assert terminal(*lift, "--reason", "mended").exit == 0
    assert terminal(*lift, "--dry-run").exit == 0
    assert terminal(*lift, "--reason", "again").exit == 1


def test_going_down_says_at_once_how_long_it_takes(terminal: Terminal, first: Slot) -> None:
    terminal.site.scale(first, 2)
    down = ("scale", "digits", "--workers", "1", "--reason", "less")
    assert terminal(*down, "--json", "--dry-run").err == ""
    said = terminal(*down)
    assert said.err.startswith("digits: takes about 1 s (its response timeout)")
    assert said.exit == 0
    assert terminal("scale", "digits", "--workers", "2", "--reason", "more").err == ""


def test_what_is_overcommitted_is_told_before(terminal: Terminal, first: Slot) -> None:
    del first
    line = ("scale", "digits", "--workers", "4", "--dry-run")
    assert terminal(*line).exit == 1
    said = terminal(*line, "--overcommit")
    assert said.exit == 3
    assert "memory: digits@1: 4 workers × 520 MB = 2.1 GB, server a has 2.0 GB" in said.out
