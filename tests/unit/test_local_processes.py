"""Processes are told apart from strangers, and logs are kept under their limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from modelswitch.local import processes
from modelswitch.local.part import clean_environment

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[psutil.Popen]:
    """A process with a child, both with the id `some-stack`."""
    env = {**os.environ, processes.ID_VARIABLE: "some-stack"}
    log = tmp_path / "logs" / "parent.log"
    process = processes.start([sys.executable, "-c", PARENT], env=env, cwd=tmp_path, log=log)
    wait_for(lambda: log.read_text() != "")
    yield process
    processes.stop(processes.with_id("some-stack"))


def test_it_runs_in_a_session_of_its_own(parent: psutil.Popen) -> None:
    assert os.getsid(parent.pid) == parent.pid


def test_stop_ends_its_children_too(parent: psutil.Popen) -> None:
    family = processes.tree(psutil.Process(parent.pid))
    assert len(family) == 2

    processes.stop([parent])

    assert not any(processes.is_alive(p) for p in family)


def test_stop_kills_what_does_not_listen(tmp_path: Path) -> None:
    log = tmp_path / "deaf.log"
    process = processes.start([sys.executable, "-c", DEAF], env=os.environ, cwd=tmp_path, log=log)
    wait_for(lambda: log.read_text() != "")

    processes.stop([process], wait_s=0.1)

    assert not processes.is_alive(process)


def test_what_a_killed_process_leaves_is_found_by_the_stacks_id(parent: psutil.Popen) -> None:
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()

    left = processes.with_id("some-stack")

    assert len(left) == 1
    assert processes.with_id("another-stack") == []


def test_a_recycled_pid_is_no_member(parent: psutil.Popen) -> None:
    created = parent.create_time()

    found = processes.find(parent.pid, created)

    assert found is not None
    assert found.pid == parent.pid
    assert processes.find(parent.pid, created - 60) is None


def test_a_zombie_is_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        process = psutil.Process(child.pid)
        created = process.create_time()
        wait_for(lambda: process.status() == psutil.STATUS_ZOMBIE)

        assert not processes.is_alive(process)
        assert processes.find(child.pid, created) is None


def test_a_log_over_its_limit_is_cut_while_it_is_written(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old " * 10)
        processes.limit_log(log, limit_bytes=10)
        writer.write(b"new")

    assert log.read_bytes() == b"new"
    assert (tmp_path / "x.log.1").read_bytes() == b"old " * 10
    processes.limit_log(log, limit_bytes=10)
    processes.limit_log(tmp_path / "none.log")
    assert log.read_bytes() == b"new"


def test_the_tail_is_of_this_run_only(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("yesterday\n")
    size = log.stat().st_size
    with log.open("a") as file:
        file.writelines(f"line {i}\n" for i in range(30))

    assert processes.tail(log, after=size, lines=2) == "line 28\nline 29"
    assert "yesterday" not in processes.tail(log, after=size, lines=100)
    assert processes.tail(tmp_path / "none.log") == ""


def test_secrets_and_other_stacks_settings_are_not_inherited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PGPASSWORD", "MODELSWITCH_DATABASE_URL", "MLFLOW_TRACKING_PASSWORD", "TS_X"):
        monkeypatch.setenv(name, "secret")

    assert "secret" not in clean_environment().values()
    assert "PATH" in clean_environment()
