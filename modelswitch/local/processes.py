"""Processes: started detached, told apart from strangers, stopped with all they started.

A process is ours when its pid and its creation time are those we noted, so a recycled pid is
never touched. What such a process left behind is found by the stack's id in its environment.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from modelswitch.errors import StackError

ID_VARIABLE = "STACK_ON_ONE_MACHINE_ID"
LOG_LIMIT_BYTES = 10_000_000


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    user: str | None = None,
    stdin: bytes = b"",
) -> psutil.Popen:
    """Start a process in a session of its own, which holds none of our pipes."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # append mode: limit_log may cut the file while the process writes
    group = pwd.getpwnam(user).pw_gid if user else None
    with log.open("ab") as out:
        process = psutil.Popen(
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=[] if user else None,
        )
    if stdin:
        with suppress(BrokenPipeError):  # it has ended already: whoever waits for it will say so
            process.stdin.write(stdin)
            process.stdin.close()
    return process


def find(pid: int, created: float) -> psutil.Process | None:
    """The living process with this pid and this creation time (± 2 s: clocks are set right)."""
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - created) < 2.0
        return process if is_same and is_alive(process) else None
    except psutil.NoSuchProcess:
        return None


def tree(process: psutil.Process) -> list[psutil.Process]:
    """A process and all it started that still have it as an ancestor."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def with_id(stack_id: str) -> list[psutil.Process]:
    """Every process that carries the stack's id in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(ID_VARIABLE) == stack_id:
                found.append(process)
        except (psutil.Error, OSError):  # a stranger's: not ours to read
            continue
    return [p for p in found if p.pid != os.getpid() and is_alive(p)]


def is_alive(process: psutil.Process) -> bool:
    """Whether anything of it runs still. A zombie is dead, once its last thread has ended."""
    try:
        if not process.is_running():
            return False
        # Killed, a JVM keeps its ports while its threads end, and is a zombie already
        return process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    except psutil.Error:
        return False


def exit_code(process: psutil.Process) -> str:
    """` with exit code 7`, if the process was started by us and can tell."""
    code = process.poll() if isinstance(process, psutil.Popen) else None
    return "" if code is None else f" with exit code {code}"


def stop(
    roots: Sequence[psutil.Process],
    *,
    by: int = signal.SIGTERM,
    wait_s: float = 10.0,
    with_children: bool = True,
) -> None:
    """Ask these to end, wait, and kill what is left of them and of what they started."""
    family = [member for root in roots for member in (tree(root) if with_children else [root])]
    for root in roots:
        _send(root, by)
    alive = _wait(roots, wait_s)
    # A worker may outlive the server that started it by a moment
    for process in alive or _wait(family, 1.0):
        _send(process, signal.SIGKILL)
    for process in _wait(family, 0.0):
        _send(process, signal.SIGKILL)
    _wait(family, 5.0)


def _wait(group: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those still alive when all are gone or the time is over. A zombie is gone."""
    deadline = time.monotonic() + timeout_s
    while True:
        alive = [process for process in group if is_alive(process)]
        if not alive or time.monotonic() >= deadline:
            break
        time.sleep(0.02)
    for process in group:
        with suppress(psutil.Error):
            process.wait(timeout=0)  # reaps our own children
    return alive


def _send(process: psutil.Process, what: int) -> None:
    try:
        process.send_signal(what)
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as error:
        raise StackError(
            f"process {process.pid} belongs to another user and cannot be stopped",
            next="run `modelswitch down` as the user who ran `modelswitch up`",
        ) from error


def listens(process: psutil.Process, port: int) -> bool:
    """Whether this process, or one it started, is who listens on the port."""
    for member in tree(process):
        try:
            connections = member.net_connections(kind="tcp")
        except psutil.Error:
            continue
        if any(_listens_on(connection, port) for connection in connections):
            return True
    return False


def _listens_on(connection: Any, port: int) -> bool:
    is_listening = connection.status == psutil.CONN_LISTEN and bool(connection.laddr)
    return is_listening and connection.laddr.port == port


def listener(port: int) -> str:
    """Who listens on a port, for a message: `java (pid 812)`, or that it cannot be told."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if _listens_on(connection, port) and connection.pid is not None:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:  # macOS shows them to root only
        pass
    return "another user's process"


def tail(log: Path, *, after: int = 0, lines: int = 20) -> str:
    """The last lines of a log, for a message; `after` is a size in bytes it once had."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(after, size - 20_000))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def limit_log(log: Path, limit_bytes: int = LOG_LIMIT_BYTES) -> None:
    """Keep a log that somebody may be writing under its limit: the older part becomes `.1`."""
    try:
        if log.stat().st_size <= limit_bytes:
            return
    except FileNotFoundError:
        return
    older = log.with_name(log.name + ".1")
    older.write_bytes(log.read_bytes())
    os.truncate(log, 0)
