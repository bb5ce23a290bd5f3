"""An agent that is told to stop does, whatever happens in that moment."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from modelswitch.agent.agent import Agent
from modelswitch.agent.slots import Slots
from modelswitch.fleet import FolderFleet
from modelswitch.reports import State
from modelswitch.servers.twin import TwinServer
from modelswitch.settings import Timeouts
from modelswitch.store import FsspecStore
from tests.unit.test_agent_loop import House


async def test_a_stop_that_comes_with_news_is_not_forgotten(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    slots = Slots(TwinServer(store), FsspecStore(tmp_path.as_uri()), store, Timeouts())
    agent = Agent(
        name="a",
        deployment="local",
        fleet=FolderFleet(tmp_path / "fleet"),
        slots=slots,
        state_dir=tmp_path / "agent",
    )
    looked = asyncio.Event()

    async def once() -> None:
        looked.set()

    agent.once = once  # type: ignore[method-assign]
    running = asyncio.create_task(agent.run())
    await looked.wait()
    for _ in range(3):  # until it waits for news
        await asyncio.sleep(0)

    agent._wake.set()
    await asyncio.sleep(0)
    running.cancel()

    done, _ = await asyncio.wait({running}, timeout=10)
    assert running in done


async def test_an_agent_that_was_stopped_says_so_at_once(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    fleet = FolderFleet(tmp_path / "fleet")
    slots = Slots(TwinServer(store), FsspecStore(tmp_path.as_uri()), store, Timeouts())
    agent = Agent(
        name="a", deployment="local", fleet=fleet, slots=slots, state_dir=tmp_path / "agent"
    )
    await agent.once()
    assert not fleet.reports()[0].is_silent(datetime.now(UTC))

    agent.say_goodbye()

    assert fleet.reports()[0].is_silent(datetime.now(UTC))
    assert fleet.reports()[0].why_silent == "its agent was stopped"


async def test_an_agent_that_is_told_to_stop_waits_for_what_is_in_flight(tmp_path: Path) -> None:
    house = House(tmp_path)
    one, two = house.slot("1"), house.slot("2")
    house.pin(one)
    agent = house.agent(drain_s=10)
    running = asyncio.create_task(agent.run())
    await house.serves(one)
    house.twin.faults.pending[one.label] = 1

    agent.stop()
    assert agent.why_not_ready == "it is being stopped"
    house.pin(two, one)  # nothing of these is taken any more
    done, _ = await asyncio.wait({running}, timeout=1.2)  # longer than two looks
    assert not done
    house.twin.faults.pending.clear()
    await asyncio.wait_for(running, 5)

    [report] = house.fleet.reports()
    assert report.why_silent == "its agent was stopped"
    assert report.generation == 1
    assert one.label in house.twin._models["digits"].versions
    assert two.label not in house.twin._models["digits"].versions


async def test_it_does_not_wait_longer_than_it_may(tmp_path: Path) -> None:
    house = House(tmp_path)
    one = house.slot("1")
    house.pin(one)
    agent = house.agent(drain_s=0.1)
    running = asyncio.create_task(agent.run())
    await house.serves(one)
    house.twin.faults.pending[one.label] = 1

    agent.stop()

    await asyncio.wait_for(running, 5)


async def test_it_does_not_wait_for_a_server_that_is_gone(tmp_path: Path) -> None:
    house = House(tmp_path)
    one = house.slot("1")
    house.pin(one)
    agent = house.agent(drain_s=60)
    running = asyncio.create_task(agent.run())
    await house.serves(one)
    house.twin.faults.unreachable = True

    agent.stop()

    await asyncio.wait_for(running, 5)


async def test_a_load_that_is_under_way_does_not_hold_it_up(tmp_path: Path) -> None:
    house = House(tmp_path)
    one = house.slot("1")
    house.twin.register_waits[one.label] = asyncio.Event()
    house.pin(one)
    agent = house.agent()
    running = asyncio.create_task(agent.run())
    await house.until(lambda r: r.slot("digits", one.label).state is State.LOADING)

    agent.stop()

    await asyncio.wait_for(running, 5)
