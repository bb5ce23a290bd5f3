"""What an agent relies on, of TorchServe 0.12 and of the twin alike."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from modelswitch.errors import NotFound, ServerConflict, ServerError, ServerUnreachable
from modelswitch.servers import torchserve
from modelswitch.servers.protocol import ModelServer
from tests.contract.servers import (
    EXITS,
    FAILS,
    LOAD_TIMEOUT_S,
    House,
    TorchServeHouse,
    TwinHouse,
    loaded,
    write_archive,
)
from tests.stack.machine import free_port_base


@pytest.fixture(scope="module")
def torchserve_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServeHouse]:
    house = TorchServeHouse(tmp_path_factory.mktemp("ts"), free_port_base())
    house.start()
    yield house
    house.stop()


@pytest.fixture(params=["twin", pytest.param("torchserve", marks=pytest.mark.stack)])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> House:
    if request.param == "twin":
        return TwinHouse(tmp_path)
    found: TorchServeHouse = request.getfixturevalue("torchserve_house")
    return found


@pytest.fixture
async def server(house: House) -> AsyncIterator[ModelServer]:
    """A client, and an empty server afterwards: each worker takes a third of a gigabyte."""
    client = house.client()
    yield client
    for name in await client.models():
        served = await client.describe(name)
        assert served is not None
        for label in sorted(served.versions, key=lambda each: each == served.default):
            await client.unregister(name, label)
    await client.close()


@pytest.fixture
def model() -> str:
    """A name that no other test has used on the shared server."""
    return f"m.{uuid.uuid4().hex[:8]}_x-1"


async def test_first_version_registered_is_the_default_without_a_worker(
    house: House, server: ModelServer, model: str
) -> None:
    archive = write_archive(house.store, model)

    await server.register(model, archive.label, archive.file, batch_size=4)

    served = await server.describe(model)
    assert served is not None
    assert served.default == archive.label
    version = served.versions[archive.label]
    assert (version.archive, version.batch_size) == (archive.file, 4)
    assert (version.workers, version.min_workers, version.max_workers) == ((), 0, 0)
    assert (version.ready, version.pending_requests, version.loaded_at_startup) == (0, 0, False)
    assert (await server.predict(model, archive.request)).status == 503
    assert (await server.predict(model, archive.request, label=archive.label)).status == 503


async def test_a_later_version_leaves_the_default(
    house: House, server: ModelServer, model: str
) -> None:
    first, second = (write_archive(house.store, model, version) for version in ("1", "2"))

    await server.register(model, first.label, first.file)
    await server.register(model, second.label, second.file)

    served = await server.describe(model)
    assert served is not None
    assert served.default == first.label
    assert set(served.versions) == {first.label, second.label}


async def test_registering_the_same_archive_again_does_nothing(
    house: House, server: ModelServer, model: str
) -> None:
    archive = write_archive(house.store, model)
    await server.register(model, archive.label, archive.file)

    await server.register(model, archive.label, archive.file)

    assert await server.models() == (model,)


async def test_a_label_that_stands_with_another_archive_is_a_conflict(
    house: House, server: ModelServer, model: str
) -> None:
    archive = write_archive(house.store, model)
    await server.register(model, archive.label, archive.file)
    other = house.store / "other.mar"
    other.write_bytes((house.store / archive.file).read_bytes())

    with pytest.raises(ServerConflict):
        await server.register(model, archive.label, other.name)

    served = await server.describe(model)
    assert served is not None
    assert served.versions[archive.label].archive == archive.file


async def test_an_archive_that_is_not_in_the_store_is_not_found(
    server: ModelServer, model: str
) -> None:
    with pytest.raises(NotFound):
        await server.register(model, "1-ab12cd34", "missing.mar")

    assert await server.describe(model) is None


async def test_what_is_no_archive_is_refused_and_leaves_nothing(
    house: House, server: ModelServer, model: str
) -> None:
    (house.store / "junk.mar").write_bytes(b"not an archive at all")

    with pytest.raises(ServerError):
        await server.register(model, "1-ab12cd34", "junk.mar")

    assert await server.models() == ()


@pytest.mark.parametrize("which", ["model", "label"])
async def test_an_archive_of_another_model_or_label_is_refused_and_leaves_nothing(
    house: House, server: ModelServer, model: str, which: str
) -> None:
    archive = write_archive(house.store, model if which == "label" else f"other-{model}")
    label = archive.label if which == "model" else "9-ab12cd34"

    with pytest.raises(ServerError, match="an archive of"):
        await server.register(model, label, archive.file)

    assert await server.models() == ()


async def test_a_loaded_version_answers_by_label_and_as_the_default(
    house: House, server: ModelServer, model: str
) -> None:
    archive = write_archive(house.store, model, "3")

    version = await loaded(server, archive)

    assert (version.min_workers, version.max_workers) == (1, 1)
    assert all(worker.is_ready and worker.pid > 0 for worker in version.workers)
    assert all(worker.memory_bytes > 10_000_000 for worker in version.workers)  # a Python's
    for label in (None, archive.label):
        answer = await server.predict(model, archive.request, label=label)
        assert (answer.status, answer.json()) == (200, archive.expected)
        assert (answer.digest, answer.model_version) == (archive.digest, f"{model}@3")
        assert answer.latency_ms > 0
    other = await server.predict(model, b'{"inputs": [7]}')
    assert (other.status, other.digest) == (200, archive.digest)
    assert other.json() != archive.expected
    probe = await server.predict(model, b"{}", headers={"X-ModelSwitch-Probe": "1"})
    assert probe.json() == {"model": f"{model}@3", "digest": archive.digest}


async def test_the_pointer_moves_at_once_and_checks_nothing(
    house: House, server: ModelServer, model: str
) -> None:
    first, second, empty = (write_archive(house.store, model, version) for version in "123")
    await loaded(server, first)
    await loaded(server, second)
    await server.register(model, empty.label, empty.file)

    await server.set_default(model, second.label)

    assert (await server.predict(model, second.request)).digest == second.digest
    assert (await server.predict(model, first.request, label=first.label)).digest == first.digest
    served = await server.describe(model)
    assert served is not None
    assert served.default == second.label

    await server.set_default(model, empty.label)

    assert (await server.predict(model, second.request)).status == 503


async def test_a_request_that_comes_while_the_worker_loads_waits_for_it(
    house: House, server: ModelServer, model: str
) -> None:
    archive = write_archive(house.store, model)
    await server.register(model, archive.label, archive.file)

    await server.workers(model, archive.label, 1)

    answer = await server.predict(model, archive.request, timeout_s=LOAD_TIMEOUT_S)
    assert (answer.status, answer.digest) == (200, archive.digest)


async def test_scaled_to_no_worker_it_answers_503(
    house: House, server: ModelServer, model: str
) -> None:
    archive = write_archive(house.store, model)
    await loaded(server, archive)

    await server.workers(model, archive.label, 0)

    deadline = time.monotonic() + LOAD_TIMEOUT_S
    while (served := await server.describe(model)) and served.versions[archive.label].workers:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert (await server.predict(model, archive.request)).status == 503


async def test_what_is_not_registered_is_not_found(
    house: House, server: ModelServer, model: str
) -> None:
    archive = write_archive(house.store, model)
    assert await server.describe(model) is None
    assert (await server.predict(model, b"{}")).status == 404
    await server.register(model, archive.label, archive.file)

    for label in ("9-ab12cd34", "nonsense"):
        assert (await server.predict(model, b"{}", label=label)).status == 404
        with pytest.raises(NotFound):
            await server.workers(model, label, 1)
        with pytest.raises(NotFound):
            await server.set_default(model, label)
    with pytest.raises(NotFound):
        await server.set_default(f"no-{model}", archive.label)


async def test_the_default_goes_last(house: House, server: ModelServer, model: str) -> None:
    first, second = (write_archive(house.store, model, version) for version in "12")
    for archive in (first, second):
        await server.register(model, archive.label, archive.file)

    with pytest.raises(ServerError):
        await server.unregister(model, first.label)
    await server.unregister(model, second.label)
    await server.unregister(model, second.label)
    await server.unregister(f"no-{model}", second.label)
    await server.unregister(model, first.label)

    assert await server.describe(model) is None


async def test_every_model_is_listed_over_as_many_pages_as_it_takes(
    house: House, server: ModelServer, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchserve, "PAGE", 2)
    names = tuple(f"{model}-{i}" for i in range(5))
    for name in names:
        archive = write_archive(house.store, name)
        await server.register(name, archive.label, archive.file)

    assert await server.models() == names


@pytest.mark.parametrize(("load", "told"), [(FAILS, "RuntimeError"), (EXITS, "")])
async def test_a_version_that_cannot_load_says_why_within_seconds(
    house: House, server: ModelServer, model: str, load: str, told: str
) -> None:
    good = write_archive(house.store, model, "1")
    bad = house.spoil(server, "2", model, load)
    await loaded(server, good)
    await server.register(model, bad.label, bad.file)
    asked_at = time.time()

    await server.workers(model, bad.label, 1)

    deadline = time.monotonic() + LOAD_TIMEOUT_S
    while (error := await server.load_error(model, bad.label, since=asked_at)) is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert told in error
    assert await server.load_error(model, good.label) is None
    served = await server.describe(model)
    assert served is not None
    assert served.versions[bad.label].ready == 0
    assert (await server.predict(model, good.request)).digest == good.digest
    with pytest.raises(ServerUnreachable):
        await server.predict(model, bad.request, label=bad.label, timeout_s=0.2)


async def test_a_restart_forgets_everything(house: House, server: ModelServer, model: str) -> None:
    archive = write_archive(house.store, model)
    await server.register(model, archive.label, archive.file)

    await house.restart(server)

    assert await server.models() == ()
    assert await server.ping()


async def test_a_server_that_is_away_is_unreachable(
    house: House, server: ModelServer, model: str
) -> None:
    assert await server.ping()

    await house.lose(server)

    try:
        assert not await server.ping()
        for call in (
            server.describe(model),
            server.models(),
            server.predict(model, b"{}"),
            server.set_default(model, "1-ab12cd34"),
            server.register(model, "1-ab12cd34", "x.mar"),
        ):
            with pytest.raises(ServerUnreachable):
                await call
    finally:
        await house.find(server)
