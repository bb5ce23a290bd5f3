"""What a worker prints is on TorchServe's stdout where a pod's log is read, and only there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from modelswitch.servers.workerlog import read_line
from tests.contract.servers import FAILS, LOAD_TIMEOUT_S, TorchServeHouse, write_archive
from tests.stack.machine import free_port_base


@pytest.fixture(params=["all", None])
def console(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[TorchServeHouse, bool]]:
    house = TorchServeHouse(tmp_path, free_port_base())
    if request.param:
        env = {**house.part.env, "WORKER_CONSOLE": request.param}
        house.part = replace(house.part, env=env)
    house.start()
    yield house, bool(request.param)
    house.stop()


async def test_workers_print_on_the_console_where_they_shall(
    console: tuple[TorchServeHouse, bool],
) -> None:
    house, shall = console
    server = house.client()
    archive = write_archive(house.store, "digits", load=FAILS)
    try:
        await server.register("digits", archive.label, archive.file)
        await server.workers("digits", archive.label, 1)
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            while await server.load_error("digits", archive.label) is None:
                await asyncio.sleep(0.1)
    finally:
        await server.close()
    printed = [read_line(text) for text in house.part.log.read_text().splitlines()]
    assert any("the weights are of another" in said[1].text for said in printed if said) is shall
