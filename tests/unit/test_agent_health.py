"""When an agent calls its server ready, and what it answers over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelswitch.agent import agent as agents
from modelswitch.agent import readiness
from modelswitch.agent.agent import Agent
from modelswitch.agent.health import answering
from modelswitch.errors import SettingsError
from modelswitch.reports import Report, State
from tests.unit.test_agent_loop import House, _until

LOOPBACK = "127.0.0.1"


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def _ready(agent: Agent) -> None:
    await _until(lambda: agent.why_not_ready is None)


async def _turns(agent: Agent) -> None:
    """Wait for a pass that began after now."""
    for _ in range(2):
        before = agent._turned_at
        agent._wake.set()
        await _until(lambda before=before: agent._turned_at > before)


async def test_a_new_server_is_ready_when_its_defaults_are_proven(house: House) -> None:
    one, other = house.slot("1"), house.slot("1", "other")
    house.twin.register_waits[other.label] = asyncio.Event()
    async with house.running() as agent:
        await _until(lambda: agent.why_not_ready == "no pins were taken yet")
        house.pin(one, other=other)
        await house.until(lambda r: r.proves("digits", one.label, one.digest))
        await _turns(agent)
        assert agent.why_not_ready == "not READY and proven here: other"
        house.twin.register_waits[other.label].set()
        await _ready(agent)


async def test_candidates_and_ways_back_never_count(house: House) -> None:
    one, two = house.slot("1"), house.slot("2")
    house.twin.faults.unloadable.add(two.label)
    house.pin(one, two)
    async with house.running() as agent:
        await house.until(lambda r: r.slot("digits", two.label).state is State.FAILED)
        await _ready(agent)


async def test_a_newer_default_that_cannot_be_loaded_leaves_it_ready(house: House) -> None:
    one, two = house.slot("1"), house.slot("2")
    house.pin(one)
    async with house.running() as agent:
        await _ready(agent)
        house.twin.faults.unloadable.add(two.label)
        house.pin(two, one)
        report = await house.until(lambda r: r.slot("digits", two.label).state is State.FAILED)
        assert not report.healthy
        assert agent.why_not_ready is None


async def test_a_model_that_is_new_does_not_take_away_what_serves(house: House) -> None:
    one, other = house.slot("1"), house.slot("1", "other")
    house.twin.faults.unloadable.add(other.label)
    house.pin(one)
    async with house.running() as agent:
        await _ready(agent)
        house.pin(one, other=other)
        await house.until(lambda r: r.slot("other", other.label).state is State.FAILED)
        assert agent.why_not_ready is None


async def test_a_default_that_cannot_be_loaded_after_a_restart_is_not_ready(house: House) -> None:
    one, two = house.slot("1"), house.slot("2")
    house.pin(one, two)
    async with house.running() as agent:
        await _ready(agent)
        house.twin.faults.unloadable.add(one.label)
        house.twin.restart()
        await house.until(lambda r: r.slot("digits", one.label).state is State.FAILED)
        await house.until(lambda r: r.is_warm("digits", two.label))
        assert agent.why_not_ready == "not READY and proven here: digits"
        served = await house.twin.describe("digits")
        assert served is not None
        assert served.default != two.label


async def test_a_default_path_that_answers_wrong_is_not_ready(house: House) -> None:
    one, two = house.slot("1"), house.slot("2")
    house.pin(one, two)
    async with house.running() as agent:
        await _ready(agent)
        await house.until(lambda r: r.is_warm("digits", two.label))
        house.twin.faults.golden_wrong.add(two.label)
        house.pin(two, one)
        await _until(lambda: agent.why_not_ready == "not READY and proven here: digits")
        house.pin(one, two)
        await _ready(agent)


async def test_a_pointer_that_moves_is_never_unready_on_the_way(house: House) -> None:
    one, two = house.slot("1"), house.slot("2")
    house.pin(one, two)
    async with house.running() as agent:
        await _ready(agent)
        await house.until(lambda r: r.is_warm("digits", two.label))
        answers = house.twin.default_path_waits[two.label] = asyncio.Event()
        house.pin(two, one)
        await house.until(lambda r: r.models["digits"].default == two.label)
        assert agent.why_not_ready is None
        answers.set()
        await house.serves(two)
        assert agent.why_not_ready is None


async def test_a_server_that_answers_late_stays_ready_and_one_that_is_gone_does_not(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "QUIET_S", 0.1)
    monkeypatch.setattr(agents, "POLL_S", 0.1)
    house.pin(house.slot("1"))
    async with house.running() as agent:
        await _ready(agent)
        house.twin.faults.unreachable = True
        await _until(lambda: "unreachable" in (agent.report.error or ""))
        assert agent.why_not_ready is None
        monkeypatch.setattr(readiness, "_PATIENCE_S", 0.2)
        await _until(lambda: "unreachable" in (agent.why_not_ready or ""))
        house.twin.faults.unreachable = False
        await _ready(agent)


async def test_an_agent_that_kept_its_pins_needs_no_fleet_to_be_ready(house: House) -> None:
    house.pin(house.slot("1"))
    async with house.running() as agent:
        await _ready(agent)
    house.fleet.pins_file.unlink()
    async with house.running() as agent:
        await _ready(agent)


# Over HTTP


@pytest.fixture
async def http(house: House) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a running agent whose pins, of generation 1, have one model."""
    house.pin(house.slot("1"))
    async with house.running() as agent, answering(agent, LOOPBACK, 0) as port:
        url = f"http://{LOOPBACK}:{port}"
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            await _ready(agent)
            yield client


async def test_probes_answer_ok(http: httpx.AsyncClient) -> None:
    for path in ("/readyz", "/healthz", "/readyz?verbose"):
        answer = await http.get(path)
        assert (answer.status_code, answer.text) == (200, "ok\n")


async def test_who_is_not_ready_says_why_in_one_line(house: House, http: httpx.AsyncClient) -> None:
    house.twin.restart()
    house.twin.faults.unloadable.add(house.slot("1").label)
    house.pin(house.slot("1"))
    await house.until(lambda r: not r.healthy)
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "not READY and proven here: digits\n")
    assert (await http.get("/healthz")).status_code == 200


async def test_a_loop_that_does_not_turn_is_not_healthy(house: House) -> None:
    agent = house.agent()
    async with answering(agent, LOOPBACK, 0) as port:
        agent._turned_at -= 61
        answer = httpx.get
        got = await asyncio.to_thread(answer, f"http://{LOOPBACK}:{port}/healthz", trust_env=False)
    assert got.status_code == 503
    assert got.text == "the loop has not turned for 61 s\n"


async def test_the_whole_report_is_at_report(house: House, http: httpx.AsyncClient) -> None:
    answer = await http.get("/report")
    assert answer.headers["content-type"] == "application/json"
    assert Report.model_validate_json(answer.text).generation == 1
    assert json.loads(answer.text)["schema"] == 1


async def test_metrics_are_those_of_prometheus(house: House, http: httpx.AsyncClient) -> None:
    two = house.slot("2")
    house.twin.faults.unloadable.add(two.label)
    house.pin(house.slot("1"), two)
    await house.until(lambda r: r.slot("digits", two.label).state is State.FAILED)
    answer = await http.get("/metrics")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert found["modelswitch_ready",] == 1
    assert found["modelswitch_generation_applied",] == 2
    assert found["modelswitch_generation_wanted",] == 2
    assert found["modelswitch_default_proven", "digits"] == 1
    assert found["modelswitch_slots", "proven"] == 1
    assert found["modelswitch_slots", "failed"] == 1
    assert found["modelswitch_loads_total",] == 1
    assert found["modelswitch_load_failures_total",] == 1
    assert 0 <= found["modelswitch_turned_seconds",] < 10


async def test_what_is_not_asked_well_is_answered_briefly(http: httpx.AsyncClient) -> None:
    assert (await http.get("/nothing")).status_code == 404
    assert (await http.post("/readyz")).status_code == 405
    head = await http.head("/healthz")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("sent", [b"", b"GET /readyz", b"\0" * 40_000, b"\xff\r\n\r\n"])
async def test_nonsense_does_not_end_it(house: House, sent: bytes) -> None:
    async with answering(house.agent(), LOOPBACK, 0) as port:
        for _ in range(2):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.write(sent)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 5)
            assert b"200" not in answer
            writer.close()


async def test_a_port_that_is_taken_is_said(house: House) -> None:
    async with answering(house.agent(), LOOPBACK, 0) as port:
        with pytest.raises(SettingsError, match=f"cannot listen on {LOOPBACK}:{port}") as caught:
            async with answering(house.agent(), LOOPBACK, port):
                pass
    assert "health_port" in str(caught.value.next)
