"""Starting parts side by side, each when what it stands on is healthy; all or none."""

from __future__ import annotations

import contextvars
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import psutil

from modelswitch.effects import correlation_id, effect, tell
from modelswitch.errors import StackError
from modelswitch.files import write_whole
from modelswitch.local import ports, processes
from modelswitch.local.addresses import Member, State
from modelswitch.local.part import Part

POLL_S = 0.1
TELL_EVERY_S = 2.0
RELEASE_S = 1.0  # what has just been stopped may hold a port for a moment


class Starter:
    """Starts parts and notes each in the state file the moment it runs."""

    def __init__(
        self, path: Path, state: State, *, former: State | None = None, all_or_none: bool = True
    ) -> None:
        """`state` is what is wanted, with the members that run; `former` what stood before."""
        self.path = path
        self.state = state
        self.former = former
        self.all_or_none = all_or_none
        self._started: dict[str, tuple[Part, psutil.Process]] = {}
        self._ended: dict[str, threading.Event] = {}
        self._failed: set[str] = set()
        self._is_given_up = threading.Event()
        self._lock = threading.Lock()

    def start(self, parts: Sequence[Part]) -> None:
        """Start those that do not run, and return when all of these parts are healthy.

        Raises StackError for the first that is not. What was started is stopped again then, and
        on Ctrl-C; if it need not be all or none, only what is not healthy is stopped.
        """
        correlation_id()  # one for all threads: each gets a copy of this context
        self._write()
        self._ended = {part.name: threading.Event() for part in parts}
        with ThreadPoolExecutor(max_workers=max(1, len(parts))) as pool:
            try:
                context = contextvars.copy_context
                started = [pool.submit(context().run, self._start, part) for part in parts]
                for one in as_completed(started) if self.all_or_none else started:
                    one.result()
            except BaseException as error:
                if self.all_or_none or not isinstance(error, StackError):
                    self._is_given_up.set()
                raise
            finally:
                pool.shutdown(wait=True)
                if self._is_given_up.is_set():
                    self.undo()

    def undo(self) -> None:
        """Stop what this one has started, the latest first."""
        for name in reversed(list(self._started)):
            self._stop(name)
        if self.former is not None:
            # Nobody shall try again for what was asked for and could not be had
            members = self.state.members
            self.state = self.former
            self._put(members)
        elif not self.state.members:
            self.path.unlink()

    def _start(self, part: Part) -> None:
        try:
            if self._waits_for_others(part):
                self._start_or_wait(part)
        except BaseException:
            self._failed.add(part.name)
            if part.name in self._started:
                self._stop(part.name)
            raise
        finally:
            self._ended[part.name].set()

    def _waits_for_others(self, part: Part) -> bool:
        """True when what it stands on is healthy, False if that will never be."""
        for name in part.after:
            while name in self._ended and not self._ended[name].wait(POLL_S):
                if self._is_given_up.is_set():
                    return False
        if self._failed.intersection(part.after):
            self._failed.add(part.name)
        return part.name not in self._failed and not self._is_given_up.is_set()

    def _start_or_wait(self, part: Part) -> None:
        standing = self.state.members.get(part.name)
        process = processes.find(standing.pid, standing.created) if standing else None
        if process is not None:
            self._wait_until_healthy(part, process, _size(part.log))
            return
        with effect("stack.start", part=part.name, address=part.address):
            part.prepare()
            processes.limit_log(part.log)
            written = _size(part.log)
            if self._is_given_up.is_set():
                return
            env = {**part.env, processes.ID_VARIABLE: self.state.id}
            process = processes.start(
                part.argv, env=env, cwd=part.cwd, log=part.log, user=part.user, stdin=part.stdin
            )
            self._note(part, process)
            self._wait_until_healthy(part, process, written)

    def _wait_until_healthy(self, part: Part, process: psutil.Process, written: int) -> None:
        """`written` is the size of its log before this start, in bytes."""
        started = told = time.monotonic()
        why: str | None = "it was not asked yet"
        while (now := time.monotonic()) - started < part.deadline_s:
            if not processes.is_alive(process):
                raise _failure(part, f"it ended{processes.exit_code(process)}", written)
            why = why_not_healthy(part, process)
            if why is None:
                return
            if now - told >= TELL_EVERY_S:
                told = now
                tell("stack.wait", part=part.name, seconds=round(now - started), why=why)
            if self._is_given_up.wait(POLL_S):
                return
        raise _failure(part, f"after {part.deadline_s:g} s it is not healthy: {why}", written)

    def _note(self, part: Part, process: psutil.Process) -> None:
        member = Member(pid=process.pid, created=process.create_time(), stop_by=int(part.stop_by))
        with self._lock:
            self._started[part.name] = (part, process)
            self._put(self.state.members | {part.name: member})

    def _stop(self, name: str) -> None:
        part, process = self._started.pop(name)
        with effect("stack.stop", part=name, pid=process.pid):
            processes.stop([process], by=part.stop_by)
        with self._lock:
            self._put({each: m for each, m in self.state.members.items() if each != name})

    def _put(self, members: dict[str, Member]) -> None:
        self.state = self.state.model_copy(update={"members": members})
        self._write()

    def _write(self) -> None:
        # After a power cut none of these processes is left: it need not outlive one
        write_whole(self.path, self.state.model_dump_json(indent=2) + "\n", durable=False)


def check_ports(part: Part) -> None:
    """Raise StackError if somebody listens on a port that the part needs."""
    deadline = time.monotonic() + RELEASE_S
    for port in part.ports:
        while (error := _bind_error(port)) is not None:
            if time.monotonic() > deadline:
                raise StackError(
                    f"port {port}, which {part.name} needs, is taken by "
                    f"{processes.listener(port)}; nothing was started",
                    next="if that is your stack of another folder, use or stop it there; "
                    "or choose other ports: modelswitch up --port-base 18080",
                ) from error
            time.sleep(POLL_S)


def _bind_error(port: int) -> OSError | None:
    with socket.socket() as probe:
        # What was closed a moment ago lingers and is no obstacle
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ports.LOOPBACK, port))
        except OSError as error:
            return error
    return None


def why_not_healthy(part: Part, process: psutil.Process) -> str | None:
    """What a running part lacks: its own sign of health, and that the one who answers is it."""
    why = part.why_not(process.create_time())
    if why is not None:
        return why
    for port in part.ports:
        if not processes.listens(process, port):
            return f"on port {port} it is not the one who listens: {processes.listener(port)} does"
    return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _failure(part: Part, what: str, written: int) -> StackError:
    last = processes.tail(part.log, after=written)
    lines = f" The last lines of {part.log}:\n{last}" if last else ""
    return StackError(
        f"{part.name} does not run as it should: {what}.{lines}",
        next=f"see {part.log}",
    )
