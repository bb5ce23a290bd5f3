"""The agent's loop on a twin: it ends when told to, and nothing that fails ends it before."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from modelswitch.agent.agent import Agent
from modelswitch.agent.slots import Slots
from modelswitch.fleet import FolderFleet
from modelswitch.servers.twin import TwinServer
from modelswitch.settings import Timeouts
from modelswitch.store import FsspecStore


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return agent_on(TwinServer(tmp_path / "models"), tmp_path)


def agent_on(server: TwinServer, folder: Path) -> Agent:
    timeouts = Timeouts(load_s=5, prove_s=5, unload_s=2)
    store = FsspecStore((folder / "archives").as_uri())
    return Agent(
        name="a",
        deployment="local",
        fleet=FolderFleet(folder / "fleet"),
        slots=Slots(server, store, server.model_store, timeouts),
        state_dir=folder / "agent",
    )


@pytest.mark.parametrize("steps", range(5))
async def test_it_ends_when_it_is_cancelled_in_the_moment_it_is_woken(
    agent: Agent, steps: int
) -> None:
    task = asyncio.create_task(agent.run())
    await reported(agent)
    await asyncio.sleep(0.05)  # it rests now
    agent._wake.set()
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=3)
    task.cancel()
    assert done


async def reported(agent: Agent) -> None:
    async with asyncio.timeout(5):
        while agent.report is None:
            await asyncio.sleep(0.01)
