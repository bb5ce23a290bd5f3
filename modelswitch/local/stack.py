"""Stack: the whole pipeline's servers on this machine, started and stopped as one.

Every process is noted in stack.json the moment it runs, and carries the stack's id in its
environment, so that a command killed at any point leaves nothing that the next one cannot find.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from modelswitch.effects import effect, tell
from modelswitch.errors import StackError, UsageError
from modelswitch.local import keeper, ports, processes
from modelswitch.local.addresses import STATE_FILE, Addresses, State, addresses, read_state
from modelswitch.local.agents import agent, is_settling
from modelswitch.local.folders import Folders, forget_short
from modelswitch.local.part import Part
from modelswitch.local.postgresql import end_former, postgresql
from modelswitch.local.starter import Starter, check_ports, why_not_healthy
from modelswitch.local.status import MemberStatus, StackStatus
from modelswitch.local.torchserve import torchserve
from modelswitch.local.tracking import tracking
from modelswitch.settings import Settings

LOCK_FILE = "stack.lock"
SETTLE_S = 60.0
SETTLE_POLL_S = 0.2

# What others stand on is stopped after them; those of a group share how they are stopped
_STOP_ORDER = (("keeper",), ("agent",), ("torchserve", "mlflow"), ("postgresql",))


class Stack:
    """The stack of one state folder."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folders = Folders(settings.state_dir)

    @property
    def addresses(self) -> Addresses:
        return addresses(self.settings)

    @property
    def _state_path(self) -> Path:
        return self.folders.state / STATE_FILE

    def up(
        self,
        *,
        servers: int | None = None,
        port_base: int | None = None,
        foreground: bool = False,
        agents: bool = True,
    ) -> StackStatus:
        """Start what does not run and wait until all is healthy; harmless when all is.

        With `foreground` it returns only after Ctrl-C or SIGTERM, when all is stopped again.
        Raises StackError when a port is taken or a part does not become healthy: what this
        call started is stopped again then, and on Ctrl-C. Raises UsageError where the fleet's
        servers are pods.
        """
        self.refuse_pods()
        standing = signal.signal(signal.SIGTERM, _interrupt) if foreground else None
        try:
            with self._locked():
                wanted = self._wanted(servers, port_base, agents)
                self._start(wanted, has_keeper=not foreground)
            self._settle()
            if foreground:
                tell("stack.up", addresses=self.addresses)
                self._keep()
        finally:
            if foreground:
                signal.signal(signal.SIGTERM, standing)
        return self.status()

    def refuse_pods(self) -> None:
        """Raise UsageError where an agent started here would follow a cluster's pins."""
        if self.settings.fleet.kind == "kubernetes":
            raise UsageError(
                "this folder's servers are pods (fleet.kind = kubernetes): up starts a stack on "
                "this machine",
                next="run it in another folder; pods: kubectl scale, see docs/kubernetes.md",
            )

    def _keep(self) -> None:
        """Keep the stack up until Ctrl-C, then stop it."""
        try:
            keeper.keep(self)
        except KeyboardInterrupt:
            tell("stack.interrupted")
        finally:
            self.down()

    def heal(self) -> tuple[str, ...]:
        """Start again what has died, unless the stack was stopped meanwhile; returns the names.

        Raises StackError when a part does not come up; the others stay.
        """
        with self._locked():
            if read_state(self.settings) is None:
                return ()
            state = self._without_the_dead(self._wanted())
            dead = [part for part in self._parts(state) if part.name not in state.members]
            Starter(self._state_path, state, all_or_none=False).start(dead)
            return tuple(part.name for part in dead)

    def down(self) -> bool:
        """Stop every process of the stack, and nothing else; False when there was none."""
        if read_state(self.settings) is None:
            return False
        # First of all, and not waiting for the lock: it would start again what we stop
        self._stop(_STOP_ORDER[0])
        with self._locked():
            for group in _STOP_ORDER:
                self._stop(group)
            state = read_state(self.settings)
            if state is not None:
                processes.stop(processes.with_id(state.id))
                if state.postgresql:
                    end_former(self.folders.postgresql)
                self._state_path.unlink()
                self._forget_links(state)
            return True

    def status(self) -> StackStatus:
        """Each process as it is now; takes no lock and changes nothing."""
        state = read_state(self.settings)
        if state is None:
            return StackStatus((), self.addresses)
        return self._status(state)

    def _start(self, wanted: State, *, has_keeper: bool) -> None:
        state = self._without_the_dead(wanted)
        parts = self._parts(state)
        if has_keeper:
            parts.append(keeper.part(self.settings, after=state.names))
        for part in parts:
            if part.name not in state.members:
                check_ports(part)
        try:
            Starter(self._state_path, state, former=read_state(self.settings)).start(parts)
        except BaseException:
            if read_state(self.settings) is None:
                self._forget_links(state)
            raise

    def _forget_links(self, state: State) -> None:
        forget_short(self.folders.postgresql)
        for place in range(state.servers):
            forget_short(self.folders.temporary(ports.server_name(place)))

    def _settle(self) -> None:
        """Wait until the agents have loaded what is pinned, or cannot; not for very long."""
        started = time.monotonic()
        state = read_state(self.settings)
        for place in range(state.servers if state and state.agents else 0):
            name = ports.server_name(place)
            while (gone := time.monotonic() - started) < SETTLE_S:
                if not is_settling(self.settings, name):
                    break
                why = "it loads what is pinned"
                tell("stack.wait", part=f"agent-{name}", seconds=round(gone), why=why)
                time.sleep(SETTLE_POLL_S)

    def _wanted(
        self, servers: int | None = None, port_base: int | None = None, agents: bool | None = None
    ) -> State:
        """What should run: what does already, and what is asked for beyond it."""
        local = self.settings.local
        standing = read_state(self.settings)
        if standing is None:
            base = port_base or local.port_base
            elsewhere = os.environ.get("MLFLOW_TRACKING_URI", ports.tracking_url(base))
            return State(
                id=uuid.uuid4().hex,
                port_base=base,
                servers=servers or local.servers,
                postgresql=self.settings.database_url is None,
                mlflow=self.settings.tracking_uri is None and elsewhere == ports.tracking_url(base),
                agents=agents is not False,
            )
        fewer = servers is not None and servers < standing.servers
        if fewer or (port_base is not None and port_base != standing.port_base):
            raise StackError(
                f"the stack was started with --servers {standing.servers} on port base "
                f"{standing.port_base}, and neither can be changed while it stands",
                next="modelswitch down, then up again",
            )
        more = {"servers": servers or standing.servers, "agents": standing.agents or bool(agents)}
        return standing.model_copy(update=more)

    def _parts(self, state: State) -> list[Part]:
        base = state.port_base
        parts = []
        if state.postgresql:
            parts.append(postgresql(self.folders))
        if state.mlflow:
            parts.append(tracking(self.folders, base, has_postgresql=state.postgresql))
        parts += [torchserve(self.folders, base, place) for place in range(state.servers)]
        if state.agents:
            parts += [agent(self.settings, base, place) for place in range(state.servers)]
        return parts

    def _without_the_dead(self, state: State) -> State:
        """With the members that live; what the dead, or a killed `up`, left behind is stopped."""
        alive = {
            name: process
            for name, member in state.members.items()
            if (process := processes.find(member.pid, member.created))
        }
        known = {p.pid for process in alive.values() for p in processes.tree(process)}
        processes.stop([p for p in processes.with_id(state.id) if p.pid not in known])
        members = {name: state.members[name] for name in alive}
        return state.model_copy(update={"members": members})

    def _stop(self, kinds: tuple[str, ...]) -> None:
        """Stop the members of these kinds side by side."""
        state = read_state(self.settings)
        going = {
            name: process
            for name, member in (state.members.items() if state else ())
            if name.partition("-")[0] in kinds
            and (process := processes.find(member.pid, member.created)) is not None
        }
        if state is None or not going:
            return
        # What the keeper has started again are members too, and have their turn
        with effect("stack.stop", part=", ".join(going)):
            processes.stop(
                list(going.values()),
                by={state.members[name].stop_by for name in going}.pop(),
                with_children=keeper.NAME not in kinds,
            )

    def _status(self, state: State) -> StackStatus:
        parts = self._parts(state)
        if keeper.NAME in state.members:
            parts.append(keeper.part(self.settings, after=[]))
        return StackStatus(tuple(_member_status(part, state) for part in parts), self.addresses)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Serialises what starts and stops; the lock goes with the process that holds it."""
        self.folders.state.mkdir(parents=True, exist_ok=True)
        _ignore_in_git(self.folders.state)
        with (self.folders.state / LOCK_FILE).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell("stack.wait", why="another command starts or stops the stack")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _member_status(part: Part, state: State) -> MemberStatus:
    member = state.members.get(part.name)
    process = processes.find(member.pid, member.created) if member else None
    if member is None or process is None:
        why = "it does not run"
        return MemberStatus(part.name, None, None, part.address, part.log, why)
    since = datetime.fromtimestamp(member.created, UTC)
    why_not = why_not_healthy(part, process)
    return MemberStatus(part.name, member.pid, since, part.address, part.log, why_not)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _ignore_in_git(folder: Path) -> None:
    """Data and logs inside a checkout are not for committing."""
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")
