"""The agent's loop on a twin that misbehaves: it goes on, tells, and never makes it worse."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from modelswitch.agent import agent as agents
from modelswitch.agent import intake
from modelswitch.agent.agent import Agent
from modelswitch.agent.slots import Slots
from modelswitch.errors import ServerError
from modelswitch.fleet import FolderFleet
from modelswitch.line import Slot
from modelswitch.pins import PinnedModel, PinnedSlot, Pins
from modelswitch.reports import Report, State
from modelswitch.servers.protocol import Answer, ServedModel
from modelswitch.servers.twin import TwinServer
from modelswitch.settings import Timeouts
from modelswitch.store import FsspecStore
from tests.site import small_archive


class SlowTwin(TwinServer):
    """A twin whose calls wait for a door, or fail, where a test says so."""

    def __init__(self, model_store: Path) -> None:
        super().__init__(model_store)
        self.register_waits: dict[str, asyncio.Event] = {}
        self.unregister_waits: dict[str, asyncio.Event] = {}
        self.default_path_waits: dict[str, asyncio.Event] = {}
        self.unregistering: set[str] = set()
        self.asked_for_what_goes: list[str] = []
        self.looks = 0
        self.is_confused = False
        self.keeps_all = False

    async def models(self) -> tuple[str, ...]:
        if self.is_confused:
            raise ServerError("the models could not be listed: answered 500")
        return await super().models()

    async def describe(self, model: str) -> ServedModel | None:
        self.looks += 1
        return await super().describe(model)

    async def register(self, model: str, label: str, archive: str, **more: Any) -> None:
        if label in self.register_waits:
            await self.register_waits[label].wait()
        await super().register(model, label, archive, **more)

    async def unregister(self, model: str, label: str) -> None:
        if self.keeps_all:
            raise ServerError(f"{model} {label} was not unloaded: answered 500")
        self.unregistering.add(label)
        if label in self.unregister_waits:
            await self.unregister_waits[label].wait()
        await super().unregister(model, label)
        self.unregistering.discard(label)

    async def workers(self, model: str, label: str, count: int) -> None:
        if label in self.unregistering:
            self.asked_for_what_goes.append(label)
        await super().workers(model, label, count)

    async def predict(
        self, model: str, body: bytes, *, label: str | None = None, **more: Any
    ) -> Answer:
        served = self._models.get(model)
        if label is None and served and served.default in self.default_path_waits:
            await self.default_path_waits[served.default].wait()
        return await super().predict(model, body, label=label, **more)


class House:
    """One server, its agent, and pins that the test writes itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet = FolderFleet(folder / "fleet")
        self.store = FsspecStore((folder / "archives").as_uri())
        (folder / "models").mkdir()
        self.twin = SlowTwin(folder / "models")
        self.generation = 0

    def agent(self, *, drain_s: float = 0.0) -> Agent:
        timeouts = Timeouts(load_s=5, prove_s=20, unload_s=2)
        return Agent(
            name="a",
            deployment="local",
            fleet=self.fleet,
            slots=Slots(self.twin, self.store, self.twin.model_store, timeouts),
            state_dir=self.folder / "agent",
            drain_s=drain_s,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Agent]:
        agent = self.agent()
        task = asyncio.create_task(agent.run())
        try:
            yield agent
            assert not task.done(), task.result()
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=5)

    def slot(self, version: str, model: str = "digits") -> Slot:
        path, digest = small_archive(self.folder, model, version)
        self.store.put(path, digest)
        return Slot(version, digest)

    def pin(self, default: Slot | None, *others: Slot, **models: Slot) -> None:
        """Publish: `digits` with this default and these other slots; other models by name."""
        self.generation += 1
        slots = [*([default] if default else []), *others]
        pinned = {"digits": _pinned(default, slots)} if slots else {}
        pinned |= {name: _pinned(slot, [slot]) for name, slot in models.items()}
        made = Pins(schema=1, deployment="local", generation=self.generation, models=pinned)
        self.fleet.publish(made)

    async def until(self, holds: Callable[[Report], object], timeout_s: float = 5.0) -> Report:
        """The first report, of the latest pins, of which `holds` is true."""
        async with asyncio.timeout(timeout_s):
            while True:
                for report in self.fleet.reports():
                    if report.generation == self.generation and holds(report):
                        return report
                await asyncio.sleep(0.01)

    async def serves(self, slot: Slot, timeout_s: float = 5.0) -> None:
        await self.until(lambda r: r.proves("digits", slot.label, slot.digest), timeout_s)


def _pinned(default: Slot | None, slots: list[Slot]) -> PinnedModel:
    return PinnedModel(
        default=default.label if default else None,
        slots={s.label: PinnedSlot(digest=s.digest, workers=s.workers) for s in slots},
    )


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.mark.parametrize("steps", range(5))
async def test_it_ends_when_it_is_cancelled_in_the_moment_it_is_woken(
    house: House, steps: int
) -> None:
    agent = house.agent()
    task = asyncio.create_task(agent.run())
    await house.until(lambda report: report)
    await _until(lambda: agent._wake._waiters)  # type: ignore[attr-defined]
    agent._wake.set()
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=3)
    task.cancel()
    assert done


async def test_a_server_that_answers_nonsense_is_reported_and_ends_no_agent(house: House) -> None:
    one = house.slot("1")
    house.twin.is_confused = True
    house.pin(one)
    async with house.running():
        await _until(lambda: any("500" in (r.error or "") for r in house.fleet.reports()))
        house.twin.is_confused = False
        await house.serves(one)


async def test_what_serves_is_not_unregistered_when_it_answers_wrong_once(house: House) -> None:
    one = house.slot("1")
    house.pin(one)
    async with house.running():
        await house.serves(one)
    house.twin.faults.golden_wrong.add(one.label)
    async with house.running():  # a new agent, which proves everything anew
        await house.until(lambda r: r.slot("digits", one.label).state is State.FAILED)
        served = await house.twin.describe("digits")
        assert served is not None
        assert served.default == one.label
        assert served.versions[one.label].ready


async def test_why_a_load_failed_is_told_though_it_cannot_be_unregistered(house: House) -> None:
    one, two = house.slot("1"), house.slot("2")
    house.pin(one)
    async with house.running():
        await house.serves(one)
        house.twin.faults.golden_wrong.add(two.label)
        house.twin.keeps_all = True
        house.pin(one, two)
        report = await house.until(lambda r: r.slot("digits", two.label).state is State.FAILED)
        assert "golden request wrong" in (report.slot("digits", two.label).error or "")


async def test_a_slot_pinned_again_while_it_is_unregistered_does_not_fail(house: House) -> None:
    one, two = house.slot("1"), house.slot("2")
    house.pin(one, two)
    async with house.running():
        await house.until(lambda r: r.is_warm("digits", two.label))
        gone = house.twin.unregister_waits[two.label] = asyncio.Event()
        house.pin(one)
        await _until(lambda: two.label in house.twin.unregistering)
        house.pin(one, two)
        await house.until(lambda r: r)
        looks = house.twin.looks
        await _until(lambda: house.twin.looks > looks + 2)
        gone.set()
        report = await house.until(
            lambda r: r.slot("digits", two.label).state in (State.PROVEN, State.FAILED)
        )
        assert report.is_warm("digits", two.label), report.slot("digits", two.label).error
        assert house.twin.asked_for_what_goes == []


async def test_the_pointer_moves_while_a_big_archive_is_registered(house: House) -> None:
    one, two, big = house.slot("1"), house.slot("2"), house.slot("3")
    house.pin(one, two)
    async with house.running():
        await house.until(lambda r: r.is_warm("digits", two.label))
        house.twin.register_waits[big.label] = asyncio.Event()
        house.pin(one, two, big)
        await house.until(lambda r: r.slot("digits", big.label).state is State.LOADING)
        house.pin(two, one, big)
        await house.serves(two, timeout_s=2.0)


async def test_newer_pins_do_not_wait_for_a_default_path_that_hangs(house: House) -> None:
    one, two = house.slot("1"), house.slot("2")
    house.pin(one, two)
    async with house.running():
        await house.until(lambda r: r.is_warm("digits", two.label))
        house.twin.default_path_waits[two.label] = asyncio.Event()
        house.pin(two, one)
        await house.until(lambda r: r.models["digits"].default == two.label)
        house.pin(one, two)
        await house.serves(one, timeout_s=3.0)


async def test_a_default_path_that_answers_late_is_proven_then(house: House) -> None:
    one = house.slot("1")
    answers = house.twin.default_path_waits[one.label] = asyncio.Event()
    house.pin(one)
    async with house.running():
        await house.until(lambda r: r.models["digits"].default == one.label)
        answers.set()
        await house.serves(one)


async def test_an_old_failure_says_nothing_of_newer_pins(house: House) -> None:
    one, two, other = house.slot("1"), house.slot("2"), house.slot("1", "other")
    house.twin.faults.unloadable.add(two.label)
    house.pin(one, two)
    async with house.running():
        await house.until(lambda r: r.slot("digits", two.label).state is State.FAILED)
        # Another model's default comes first: the failed one waits for its next try.
        house.twin.register_waits[other.label] = asyncio.Event()
        house.pin(one, two, other=other)
        report = await house.until(lambda r: r)
        assert report.slot("digits", two.label).state is not State.FAILED


async def test_pins_that_cannot_be_kept_on_disk_are_not_taken(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = house.slot("1"), house.slot("2")
    house.pin(one)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with house.running():
        await house.serves(one)
        with monkeypatch.context() as patched:
            patched.setattr(intake, "write_whole", full)
            house.pin(one, two)
            await _until(lambda: "No space left" in (house.fleet.reports()[0].error or ""))
        await house.until(lambda r: r.is_warm("digits", two.label))


async def test_a_server_that_is_as_pinned_is_looked_at_rarely_and_news_wake_at_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "POLL_S", 0.02)
    monkeypatch.setattr(agents, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(agents, "QUIET_S", 60.0)
    one, two = house.slot("1"), house.slot("2")
    house.pin(one, two)
    async with house.running() as agent:
        await house.until(lambda r: r.is_warm("digits", two.label))
        await _until(lambda: all(model.is_settled for model in agent._models.values()))
        looks, beat = house.twin.looks, agent.report.heartbeat_at
        await _until(lambda: (agent.report.heartbeat_at - beat).total_seconds() > 0.5)
        assert house.twin.looks == looks
        house.pin(two, one)
        await house.serves(two, timeout_s=1.0)


async def test_a_server_that_forgot_everything_is_healed_without_news(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "QUIET_S", 0.2)
    one = house.slot("1")
    house.pin(one)
    async with house.running() as agent:
        await house.serves(one)
        await _until(lambda: all(model.is_settled for model in agent._models.values()))
        proven = agent.report.models["digits"].proof
        house.twin.restart()
        await house.until(lambda r: r.models["digits"].proof not in (None, proven))


async def test_what_one_command_published_bears_its_id_to_the_end(house: House) -> None:
    one = house.slot("1")
    model = _pinned(one, [one])
    house.generation = 1
    pins = Pins(schema=1, deployment="local", generation=1, models={"digits": model})
    house.fleet.publish(pins, correlation_id="c0ffee")
    with structlog.testing.capture_logs() as logs:
        async with house.running():
            report = await house.until(lambda r: r.proves("digits", one.label, one.digest))
    assert report.correlation_id == "c0ffee"
    ours = {line["event"] for line in logs if line.get("correlation_id") == "c0ffee"}
    assert {"agent.accept", "agent.load", "agent.register", "agent.prove"} <= ours


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)
