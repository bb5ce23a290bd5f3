"""Kills on the real stack: commands at their boundaries, servers and agents at any moment."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from modelswitch.archive.verify import verify
from modelswitch.refs import ModelRef
from tests.stack.deployment import WHY, Deployment, ended, wait_for
from tests.stack.models import MODEL, RECIPE

PROMOTE = ("promote", f"{MODEL}@1", "--reason", "to be killed")
WRITING = ("archive.write", "store.put", "store.record_build")
# Each starts from 2 serving and 1 behind it, or with 3 to be loaded.
MATRIX = {
    "promote warm": PROMOTE,
    "promote cold": ("promote", f"{MODEL}@3", "--reason", "to be killed"),
    "stage": ("promote", f"{MODEL}@3", "--to", "staging", "--reason", "to be killed"),
    "rollback": ("rollback", MODEL, "--no-quarantine", "--reason", "to be killed"),
    "retire": ("retire", f"{MODEL}@1", "--reason", "to be killed"),
}


def first_of_each_kind(boundaries: list[str]) -> list[int]:
    """Their numbers, from 1."""
    return sorted({kind: n for n, kind in reversed(list(enumerate(boundaries, 1)))}.values())


def test_a_command_killed_at_each_kind_of_boundary_is_concluded_by_resume(
    deployment: Deployment, tmp_path: Path
) -> None:
    deployment.stand("2", back="1")
    boundaries = deployment.boundaries(tmp_path / "listed", *PROMOTE)
    kills = first_of_each_kind(boundaries)
    assert {"ledger.append before", "fleet.publish after", "marks.write before"} <= set(boundaries)
    for boundary in kills:
        deployment.stand("2", back="1")
        assert deployment.killed(boundary, *PROMOTE)
        assert deployment.all_serve() <= {"1", "2"}
        deployment.switch.resume(MODEL)
        deployment.assert_one_story()
    print(f"killed at {len(kills)} of {len(boundaries)} boundaries")


def test_a_build_killed_at_each_kind_of_boundary_leaves_nothing_half_written(
    deployment: Deployment, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.json"
    line = ("build", f"{MODEL}@1", "--recipe", str(recipe))

    def another(delay_ms: int) -> None:
        recipe.write_text(json.dumps({**RECIPE, "max_batch_delay_ms": delay_ms}))

    another(100)
    boundaries = deployment.boundaries(tmp_path / "listed", *line)
    kills = first_of_each_kind(boundaries)
    assert {"archive.write after", "store.put before", "store.record_build after"} <= set(
        boundaries
    )
    for boundary in kills:
        another(100 + boundary)
        assert deployment.killed(boundary, *line)
        built = deployment.switch.build(
            ModelRef(MODEL, version="1"), recipe=json.loads(recipe.read_text())
        )
        store = deployment.switch.store
        for kept in store.list():
            store.fetch(kept.digest, tmp_path / "fetched.mar")
            verify(tmp_path / "fetched.mar", kept.digest)
        assert store.has(built.slot.digest)
        store.delete(built.slot.digest)


@pytest.mark.crash_matrix
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("verb", MATRIX)
def test_a_command_killed_at_every_boundary_is_concluded_by_resume(
    deployment: Deployment, tmp_path: Path, verb: str
) -> None:
    deployment.slot("3")
    boundary, was_killed = 0, True
    while was_killed:
        boundary += 1
        deployment.stand("2", back="1")
        was_killed = deployment.killed(boundary, *MATRIX[verb])
        deployment.switch.resume(MODEL)
        deployment.assert_one_story()
    print(f"{verb}: killed at {boundary - 1} boundaries")
    assert boundary > 4


def test_servers_and_agents_that_are_killed_answer_as_before_without_a_command(
    deployment: Deployment,
) -> None:
    deployment.stand("2", back="1")
    rows = len(deployment.switch.history())
    members = ("torchserve-a", "agent-b", "torchserve-c", "agent-c")

    before = {member: deployment.kill(member) for member in members}

    wait_for(lambda: all(deployment.pid(m) not in (None, before[m]) for m in members))
    wait_for(lambda: deployment.all_serve() == {"2"})
    wait_for(lambda: not deployment.switch.diff())  # the ways back are warm again too
    assert len(deployment.switch.history()) == rows


def test_a_rollback_moves_who_is_there_and_the_third_follows(deployment: Deployment) -> None:
    deployment.stand("2", back="1")
    keeper = deployment.pid("keeper")
    assert keeper is not None
    os.kill(keeper, signal.SIGSTOP)  # so that nobody starts again what is killed
    try:
        for member in ("agent-c", "torchserve-c"):
            deployment.kill(member)

        said = deployment.run("rollback", MODEL, "--reason", "one server is down")

        assert (said.exit, said.code) == (4, "server_behind")
        assert "a, b answer with it" in said.message
        assert "server c" in said.message
        assert {deployment.serves(name) for name in "ab"} == {"1"}
        assert deployment.serves("c") is None
    finally:
        os.kill(keeper, signal.SIGCONT)
    wait_for(lambda: deployment.serves("c") == "1")
    deployment.assert_one_story()


def test_ctrl_c_says_what_is_open_and_resume_settles_it(deployment: Deployment) -> None:
    deployment.stand("2", back="1")
    deployment.slot("3")
    promotion = deployment.start("promote", f"{MODEL}@3", "--reason", "to be interrupted")
    wait_for(lambda: is_open(deployment))
    other = deployment.run("promote", f"{MODEL}@1", "--reason", "at the same time")
    assert (other.exit, other.code) == (1, "at_work")
    promotion.send_signal(signal.SIGINT)
    said = ended(promotion)

    assert said.exit == 130
    assert said.message == f"interrupted; open: {MODEL}"
    assert deployment.all_serve() == {"2"}
    resumed = deployment.run("resume")
    assert resumed.exit == 0, resumed
    deployment.assert_one_story()
    assert deployment.line.default == deployment.slot("2")


def is_open(deployment: Deployment) -> bool:
    event = deployment.switch.ledger.head(MODEL)
    return event is not None and event.head.is_open


def test_of_two_that_move_at_once_the_other_is_told(deployment: Deployment) -> None:
    deployment.stand("2", back="1")
    promotion = deployment.start("promote", f"{MODEL}@3", "--reason", "will be overtaken")
    wait_for(lambda: is_open(deployment))
    deployment.switch.moves.rollback(MODEL, WHY, quarantines=False)
    said = ended(promotion)
    assert (said.exit, said.code) == (1, "superseded")
    assert "rollback" in said.message
    deployment.assert_one_story()
    assert deployment.all_serve() == {"1"}
