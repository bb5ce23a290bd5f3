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
from modelswitch.local import ports, processes
from modelswitch.local.addresses import Member, State
from modelswitch.local.part import Part

POLL_S = 0.1
TELL_EVERY_S = 2.0


class Starter:
    """Starts parts and notes each in the state file the moment it runs."""

    def __init__(self, path: Path, state: State) -> None:
        self.path = path
        self.state = state
        self._started: dict[str, tuple[Part, psutil.Process]] = {}
        self._healthy: dict[str, threading.Event] = {}
        self._is_given_up = threading.Event()
        self._lock = threading.Lock()

    def start(self, parts: Sequence[Part], *, all_or_none: bool = True) -> None:
        """Start those that do not run, and return when all of these parts are healthy.

        On the first that is not (or Ctrl-C) all that were started are stopped again; without
        `all_or_none` only that one is, once the others are healthy. Raises StackError then.
        """
        correlation_id()  # one for all threads: each gets a copy of this context
        self._write()
        self._healthy = {part.name: threading.Event() for part in parts}
        try:
            with ThreadPoolExecutor(max_workers=max(1, len(parts))) as pool:
                try:
                    started = [
                        pool.submit(contextvars.copy_context().run, self._start, part)
                        for part in parts
                    ]
                    for one in as_completed(started) if all_or_none else started:
                        one.result()
                except KeyboardInterrupt:  # the others must see it before we wait for them
                    self._is_given_up.set()
                    raise
                except StackError:
                    if all_or_none:
                        self._is_given_up.set()
                    raise
        except BaseException:
            self.undo(all_or_none=all_or_none)
            raise

    def _start(self, part: Part) -> None:
        while not all(self._healthy[n].is_set() for n in part.after if n in self._healthy):
            if self._is_given_up.wait(POLL_S):
                return
        standing = self.state.members.get(part.name)
        process = processes.find(standing.pid, standing.created) if standing else None
        if process is not None:
            self._wait_until_healthy(part, process)
        else:
            with effect("stack.start", part=part.name, address=part.address):
                self._launch(part)
        self._healthy[part.name].set()
    def undo(self) -> None:
        """Stop what this one has started, the latest first."""
        for part, process in reversed(self._started):
            with effect("stack.stop", part=part.name, pid=process.pid):
                processes.stop([process], by=part.stop_by)
        gone = {part.name for part, _ in self._started}
        self._put({name: m for name, m in self.state.members.items() if name not in gone})
        if not self.state.members:
            self.path.unlink()

    def _put(self, members: dict[str, Member]) -> None:
        self.state = self.state.model_copy(update={"members": members})
        self._write()

    def _write(self) -> None:
        """Atomically: who reads it sees the old state or the new one."""
        new = self.path.with_name(self.path.name + ".new")
        new.write_text(self.state.model_dump_json(indent=2) + "\n", encoding="utf-8")
        new.replace(self.path)


def check_ports(part: Part) -> None:
    """Raise StackError if somebody listens on a port that the part needs."""
    for port in part.ports:
        with socket.socket() as probe:
            # What was closed a moment ago lingers and is no obstacle
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ports.LOOPBACK, port))
            except OSError as error:
                raise StackError(
                    f"port {port}, which {part.name} needs, is taken by "
                    f"{processes.listener(port)}; nothing was started",
                    next="stop that one, or choose other ports: modelswitch up --port-base 18080",
                ) from error


def why_not_healthy(part: Part, process: psutil.Process) -> str | None:
    """What a running part lacks: its own sign of health, and that the one who answers is it."""
    why = part.why_not(process.create_time())
    if why is not None:
        return why
    for port in part.ports:
        if not processes.listens(process, port):
            return f"on port {port} it is not the one who listens: {processes.listener(port)} does"
    return None


def _failure(part: Part, what: str, written: int) -> StackError:
    last = processes.tail(part.log, after=written)
    lines = f" The last lines of {part.log}:\n{last}" if last else ""
    return StackError(
        f"{part.name} did not start: {what}.{lines}",
        next=f"see {part.log}; what had been started was stopped again",
    )
