"""A whole deployment on twins: a folder fleet, agents in a thread, servers in memory.

Everything but the servers is the product's own: archives, store, ledger, agents, moves.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from modelswitch.agent.agent import Agent
from modelswitch.agent.slots import Slots
from modelswitch.archive.document import Document, Identity, Signature
from modelswitch.archive.golden import Golden
from modelswitch.archive.recipe import Recipe
from modelswitch.archive.writer import write
from modelswitch.fleet import FolderFleet
from modelswitch.ledger import Ledger, MemoryLedger
from modelswitch.line import Slot
from modelswitch.moves import Intent, Moves
from modelswitch.reports import Capacity, Report
from modelswitch.servers.twin import TwinServer
from modelswitch.settings import Settings, Timeouts
from modelswitch.store import FsspecStore

T = TypeVar("T")


def small_archive(
    folder: Path, model: str, version: str, *, timeout_s: int = 1
) -> tuple[Path, str]:
    """A real archive with a golden request, without a real model in it."""
    draft = Document(
        schema=1,
        identity=Identity(model=model, version=version, run_id=None, source=f"models:/m-{version}"),
        signature=Signature(inputs=[]),
        recipe=Recipe(handler="torch", response_timeout_s=timeout_s),
        golden=Golden(
            kind="exact", request={"inputs": [1]}, expected={"predictions": [int(version)]}
        ),
        entries={},
    )
    written = write(folder, draft, {"weights.bin": f"{model} {version}".encode()})
    return written.path, written.digest


def wait_for(condition: Callable[[], T], timeout_s: float = 15.0) -> T:
    """The first true value of `condition`; fails when time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {condition}"
        time.sleep(0.01)


class Site:
    """`servers` are names; each has a twin and an agent, which can be stopped and started.

    `pools`: the pool of a server, where it is not the default one. `capacity` is that of each
    server, `worker_bytes` what a worker takes of it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        servers: tuple[str, ...] = ("a", "b"),
        ledger: Ledger | None = None,
        fleet: FolderFleet | None = None,
        pools: Mapping[str, str] | None = None,
        capacity: Capacity | None = None,
        worker_bytes: int = 0,
    ) -> None:
        self.folder = folder
        self.settings = Settings(root=folder, timeouts=Timeouts(load_s=5, prove_s=5, unload_s=2))
        self.store = FsspecStore(self.settings.store)
        self.fleet = fleet or FolderFleet(self.settings.fleet_path)
        self.pools = pools or {}
        self.capacity = capacity
        self.ledger = ledger or MemoryLedger()
        self.moves = Moves(self.ledger, self.fleet, self.settings)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.twins: dict[str, TwinServer] = {}
        self.agents: dict[str, Agent] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        for name in servers:
            store = folder / "stores" / name
            store.mkdir(parents=True)
            self.twins[name] = TwinServer(store, worker_bytes=worker_bytes)

    def __enter__(self) -> Site:
        self._thread.start()
        for name in self.twins:
            self.start(name)
        wait_for(lambda: len(self.fleet.reports()) == len(self.twins))
        return self

    def __exit__(self, *exc: object) -> None:
        for name in list(self._tasks):
            self.stop(name)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def on_loop(self, work: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(timeout=10)

    def start(self, name: str) -> None:
        async def begin() -> None:
            twin = self.twins[name]
            slots = Slots(twin, self.store, twin.model_store, self.settings.timeouts)
            agent = Agent(
                name=name,
                deployment=self.settings.deployment,
                fleet=self.fleet,
                slots=slots,
                state_dir=self.folder / "agents" / name,
                pool=self.pools.get(name, "default"),
                capacity=self.capacity,
            )
            self.agents[name] = agent
            self._tasks[name] = asyncio.create_task(agent.run())

        self.on_loop(begin)

    def stop(self, name: str) -> None:
        """End an agent as a kill would: it finishes nothing."""

        async def end() -> None:
            task = self._tasks.pop(name)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self.on_loop(end)

    def silence(self, name: str) -> None:
        """Stop an agent, and age its last report so that it counts as down."""
        self.stop(name)
        report = self.report(name)
        old = report.heartbeat_at.replace(year=2020)
        self.fleet.report(report.model_copy(update={"heartbeat_at": old}))

    def report(self, name: str) -> Report:
        return next(r for r in self.fleet.reports() if r.server == name)

    def slot(self, version: str, model: str = "digits", *, timeout_s: int = 1) -> Slot:
        """An archive of `version` in the store."""
        out = self.folder / "built"
        out.mkdir(exist_ok=True)
        path, digest = small_archive(out, model, version, timeout_s=timeout_s)
        self.store.put(path, digest)
        return Slot(version, digest)

    def stage(self, slot: Slot, model: str = "digits") -> Any:
        return self.moves.stage(model, slot, Intent("a test stages"))

    def promote(self, slot: Slot, model: str = "digits") -> Any:
        return self.moves.promote(model, slot, Intent("a test promotes"))

    def scale(self, slot: Slot, workers: int, model: str = "digits") -> Any:
        return self.moves.scale(model, slot, workers, Intent("a test scales"))

    def rollback(self, model: str = "digits", **kwargs: Any) -> Any:
        return self.moves.rollback(model, Intent("a test rolls back"), **kwargs)

    def answers(self, name: str, model: str = "digits") -> str | None:
        """The version that the default path of a server answers with; None for no answer."""
        answer = self.on_loop(lambda: self.twins[name].predict(model, b"{}"))
        said = answer.model_version
        return said.partition("@")[2] if said else None

    def all_answer(self, model: str = "digits") -> set[str | None]:
        return {self.answers(name, model) for name in self.twins}


@contextmanager
def site(folder: Path, **kwargs: Any) -> Iterator[Site]:
    with Site(folder, **kwargs) as made:
        yield made
