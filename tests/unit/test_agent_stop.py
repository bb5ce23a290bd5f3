"""An agent that is told to stop does, whatever happens in that moment."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from modelswitch.agent.agent import Agent
from modelswitch.agent.slots import Slots
from modelswitch.fleet import FolderFleet
from modelswitch.servers.twin import TwinServer
from modelswitch.settings import Timeouts
from modelswitch.store import FsspecStore


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
