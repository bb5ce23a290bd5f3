"""The agent in a pod, on a real API server: what it follows, and what it says of itself."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from modelswitch.agent.agent import HEARTBEAT_S, Agent
from modelswitch.fleet import config_map, pod_status
from modelswitch.fleet.condition import Wanted, parse
from modelswitch.fleet.config_map import ConfigMapWatch
from tests.cluster.control_plane import ControlPlane
from tests.cluster.pods import CONFIG_MAP, MODEL, allow_agents
from tests.cluster.twin_pod import TwinPod, pins_of, until, without_api

NEWS_S = 2.0


@pytest.fixture
def pod(plane: ControlPlane, namespace: str, tmp_path: Path) -> TwinPod:
    allow_agents(plane, namespace)
    return TwinPod(plane, namespace, tmp_path, "torchserve-0")


async def two_heartbeats(agent: Agent) -> None:
    """Longer than anything is held back."""
    seen = agent.report.heartbeat_at
    await until(lambda: agent.report.heartbeat_at - seen > timedelta(seconds=HEARTBEAT_S))


async def test_news_come_by_the_watch(pod: TwinPod) -> None:
    one, two = pod.slot("1"), pod.slot("2")
    async with pod.running() as agent:
        await until(lambda: "is not there" in (agent.why_not_ready or ""))
        await pod.put(pins_of(1, one))
        await pod.serves(one, 1, NEWS_S)
        await pod.is_ready()
        await pod.put(pins_of(2, one, two))
        await until(lambda: agent.report.is_warm(MODEL, two.label))
        await pod.put(pins_of(3, two, one))
        await pod.serves(two, 3, NEWS_S)


async def test_a_new_pod_loads_from_its_mount_and_is_not_ready_before_it_has_read_the_api(
    pod: TwinPod,
) -> None:
    one = pod.slot("1")
    pod.kubeconfig = without_api(pod.kubeconfig)
    pod.mounts(pins_of(1, one))
    async with pod.running() as agent:
        await pod.serves(one, 1)
        await until(lambda: "cannot be asked: ConnectError" in (agent.why_not_ready or ""))
        assert "was not read since this start" in (agent.why_not_ready or "")


async def test_a_new_pod_reads_the_latest_generation_before_it_is_ready(pod: TwinPod) -> None:
    one, two = pod.slot("1"), pod.slot("2")
    pod.mounts(pins_of(1, one))
    await pod.put(pins_of(2, two))
    pod.twin.faults.unloadable.add(two.label)
    async with pod.running() as agent:
        await until(lambda: agent.report and agent.report.generation == 2)
        await until(lambda: agent.report.slot(MODEL, two.label).error)
        assert agent.why_not_ready == f"not READY and proven here: {MODEL}"
        pod.twin.faults.unloadable.clear()
        await pod.serves(two, 2)
        await pod.is_ready()


async def test_a_new_pod_whose_store_is_away_says_so_and_serves_once_it_is_back(
    pod: TwinPod,
) -> None:
    one = pod.slot("1")
    archives = pod.folder.parent / "archives"
    away = archives.rename(archives.with_name("away"))
    await pod.put(pins_of(1, one))
    async with pod.running() as agent:
        await until(lambda: agent.report and agent.report.slot(MODEL, one.label).error)
        assert agent.why_not_ready == f"not READY and proven here: {MODEL}"
        away.rename(archives)
        await pod.serves(one, 1)
        await pod.is_ready()


async def test_an_agent_that_kept_its_pins_is_ready_again_without_the_api(pod: TwinPod) -> None:
    one = pod.slot("1")
    await pod.put(pins_of(1, one))
    async with pod.running():
        await pod.is_ready()
    pod.twin.restart()
    pod.kubeconfig = without_api(pod.kubeconfig)
    async with pod.running():
        await pod.serves(one, 1)
        await pod.is_ready()


async def test_an_api_server_that_is_away_for_a_while_changes_nothing(pod: TwinPod) -> None:
    one, two = pod.slot("1"), pod.slot("2")
    await pod.put(pins_of(1, one, two))
    async with pod.running() as agent:
        await pod.is_ready()
        await until(lambda: agent.report.is_warm(MODEL, two.label))
        pod.plane.stop_api_server()
        try:
            await until(lambda: agent.fleet.calls.errors > 1)
            # Meanwhile its server restarts, and the mount, at last, tells of other pins.
            pod.twin.restart()
            pod.mounts(pins_of(2, two, one))
            await pod.serves(two, 2)
            await pod.is_ready()
        finally:
            await asyncio.to_thread(pod.plane.start_api_server)
        await pod.put(pins_of(3, one, two))
        await pod.serves(one, 3, 35.0)
        await pod.condition(lambda found: '"generation":3' in found["message"])


async def test_pins_edited_by_hand_are_refused_and_told_and_what_serves_stays(
    pod: TwinPod,
) -> None:
    one, two = pod.slot("1"), pod.slot("2")
    await pod.put(pins_of(1, one, two))
    async with pod.running() as agent:
        await pod.is_ready()
        for text, why in (
            ("{", "is not JSON"),
            (pins_of(1, two, one).text, "differ from those this server took"),
        ):
            await pod.put(text)
            await pod.says(why)
            await pod.condition(lambda found, why=why: why in found["message"])
            assert agent.why_not_ready is None
            assert agent.report.proves(MODEL, one.label, one.digest)
        await pod.put(pins_of(1, one, two))
        await until(lambda: agent.report.error is None)


async def test_a_stale_checkout_applied_again_is_refused_and_told(pod: TwinPod) -> None:
    one, two = pod.slot("1"), pod.slot("2")
    await pod.put(pins_of(7, one, two))
    async with pod.running() as agent:
        await pod.is_ready()
        pod.mounts(pins_of(7, one, two))  # late, as a mount is: it must hide nothing
        await pod.put(pins_of(6, two))
        await pod.says("refused pins of generation 6: this server has taken 7")
        found = await pod.condition(lambda found: "generation 6" in found["message"])
        assert found["status"] == "True"
        assert agent.why_not_ready is None
        await pod.put(pins_of(8, two, one))
        await pod.serves(two, 8)
        assert agent.report.error is None


async def test_a_watch_that_misses_news_is_found_out_by_the_mount(
    pod: TwinPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pod.slot("1"), pod.slot("2")
    await pod.put(pins_of(1, one, two))
    monkeypatch.setattr(ConfigMapWatch, "_take", lambda *_: True)
    async with pod.running() as agent:
        await until(lambda: agent.report and agent.report.is_warm(MODEL, two.label))
        await pod.put(pins_of(2, one, two))
        await pod.put(pins_of(3, two, one))
        pod.mounts(pins_of(2, one, two))
        await pod.serves(two, 3)


async def test_a_watch_ends_and_is_reopened_without_being_asked_again(
    pod: TwinPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_map, "_WATCH_S", (1, 1))
    one, two = pod.slot("1"), pod.slot("2")
    await pod.put(pins_of(1, one, two))
    async with pod.running() as agent:
        await until(lambda: agent.report and agent.report.is_warm(MODEL, two.label))
        await pod.is_ready()
        before, since = agent.fleet.calls.requests, time.monotonic()
        await until(lambda: agent.fleet.calls.requests > before + 2)
        assert time.monotonic() - since > 2.0, "one request for each watch"
        await pod.put(pins_of(2, two, one))
        await pod.serves(two, 2, NEWS_S)
        assert agent.fleet.calls.errors == 0


async def test_a_mount_that_is_behind_the_watch_is_no_stranger(pod: TwinPod) -> None:
    one, two = pod.slot("1"), pod.slot("2")
    pod.mounts(pins_of(1, one))
    await pod.put(pins_of(2, two, one))
    async with pod.running() as agent:
        await pod.serves(two, 2)
        pod.mounts(pins_of(1, one, two))
        seen = agent.report.heartbeat_at
        await until(lambda: agent.report.heartbeat_at > seen)
        assert agent.report.error is None
        assert agent.report.proves(MODEL, two.label, two.digest)


async def test_a_config_map_that_is_deleted_takes_nothing_away(pod: TwinPod) -> None:
    one, two = pod.slot("1"), pod.slot("2")
    await pod.put(pins_of(1, one, two))
    async with pod.running() as agent:
        await pod.is_ready()
        await pod.kubectl("delete", "configmap", CONFIG_MAP)
        await pod.says(f"the ConfigMap {CONFIG_MAP} is not there")
        assert agent.why_not_ready is None
        assert agent.report.proves(MODEL, one.label, one.digest)
        await pod.put(pins_of(2, two, one))
        await pod.serves(two, 2, NEWS_S)
        assert agent.report.error is None


async def test_the_whole_report_is_in_the_condition_of_its_own_pod(
    pod: TwinPod, tmp_path: Path
) -> None:
    one, two, broken = pod.slot("1"), pod.slot("2"), pod.slot("3")
    pod.twin.faults.unloadable.add(broken.label)
    pins = pins_of(4, one, two, broken)
    other = TwinPod(pod.plane, pod.namespace, tmp_path, "torchserve-1")
    await pod.put(pins)
    async with pod.running() as agent:
        await until(lambda: agent.report and agent.report.slot(MODEL, broken.label).error)
        await until(lambda: agent.report.is_warm(MODEL, two.label))
        wanted = Wanted.of(pins, "default")

        def told_all(found: Mapping[str, Any]) -> bool:
            """What was reported on the way is news as well."""
            said = parse(found, server=pod.pod, pool="default", wanted=wanted)
            is_told = said is not None and said.is_warm(MODEL, two.label)
            return is_told and "cannot be loaded" in found["message"] and found["status"] == "True"

        found = await pod.condition(told_all)
        assert found["reason"] == "Applied"
        told = parse(found, server=pod.pod, pool="default", wanted=wanted)
        assert told is not None
        assert (told.generation, told.boot_id) == (4, agent.boot_id)
        assert told.models[MODEL].proof == agent.report.models[MODEL].proof
        for slot in (one, two):
            assert told.is_warm(MODEL, slot.label)
        assert "cannot be loaded" in told.slot(MODEL, broken.label).error
        status = pod.plane.get(f"pod/{other.pod}", "-n", pod.namespace)["status"]
        assert found["type"] not in [c["type"] for c in status["conditions"]]
    # Stopped in order, it says so itself.
    await pod.condition(lambda found: "its agent was stopped" in found["message"])


async def test_a_warm_switch_costs_no_more_than_three_requests(pod: TwinPod) -> None:
    one, two = pod.slot("1"), pod.slot("2")
    await pod.put(pins_of(1, one, two))
    async with pod.running() as agent:
        await until(lambda: agent.report and agent.report.is_warm(MODEL, two.label))
        await pod.is_ready()
        await two_heartbeats(agent)
        before = agent.fleet.calls.requests
        await pod.put(pins_of(2, two, one))  # committed
        await pod.serves(two, 2)
        await pod.condition(lambda found: '"generation":2' in found["message"])
        await pod.put(pins_of(3, two, one))  # settled
        await pod.serves(two, 3)
        await pod.condition(lambda found: '"generation":3' in found["message"])
        await two_heartbeats(agent)
        assert agent.fleet.calls.requests - before <= 3


async def test_what_has_not_changed_is_repeated_rarely(
    pod: TwinPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_status, "HEARTBEAT_S", 4.0)
    await pod.put(pins_of(1, pod.slot("1")))
    async with pod.running() as agent:
        await pod.is_ready()
        first = await pod.condition(lambda found: found["status"] == "True")
        before, since = agent.fleet.calls.requests, time.monotonic()
        again = await pod.condition(lambda f: f["lastProbeTime"] > first["lastProbeTime"])
        assert agent.fleet.calls.requests - before <= 1 + (time.monotonic() - since) / 3.5
        assert again["message"] == first["message"]


async def test_the_transition_time_moves_when_the_status_does_and_outlives_the_agent(
    pod: TwinPod,
) -> None:
    one, two = pod.slot("1"), pod.slot("2")
    await pod.put(pins_of(1, one, two))
    async with pod.running() as agent:
        await pod.is_ready()
        first = await pod.condition(lambda found: found["status"] == "True")
        await until(lambda: agent.report is not None and agent.report.is_warm(MODEL, two.label))
        await pod.put(pins_of(2, two, one))
        second = await pod.condition(lambda found: '"generation":2' in found["message"])
        assert second["lastTransitionTime"] == first["lastTransitionTime"]
        pod.twin.faults.golden_wrong.add(one.label)
        await pod.put(pins_of(3, one))
        now = partial(datetime.now, UTC)
        await until(lambda: f"{now():%FT%TZ}" > first["lastTransitionTime"])
        pod.twin.restart()
        third = await pod.condition(lambda found: found["status"] == "False")
        assert third["lastTransitionTime"] > first["lastTransitionTime"]
    gone = await pod.condition(lambda found: "its agent was stopped" in found["message"])
    async with pod.running() as agent:
        fourth = await pod.condition(lambda found: agent.boot_id in found["message"])
        assert fourth["status"] == "False"
        assert fourth["lastTransitionTime"] == gone["lastTransitionTime"]


async def test_an_agent_without_rights_says_so(plane: ControlPlane, pod: TwinPod) -> None:
    pod.mounts(pins_of(1, pod.slot("1")))
    plane.kubectl("delete", "rolebinding", "modelswitch-agent", "-n", pod.namespace)
    async with pod.running() as agent:
        await until(lambda: "HTTP 403" in (agent.why_not_ready or ""))


async def test_a_token_that_is_renewed_is_read_again(pod: TwinPod) -> None:
    token = pod.folder / "token"
    good = token.read_text()
    token.write_text("expired")
    await pod.put(pins_of(1, pod.slot("1")))
    async with pod.running() as agent:
        await until(lambda: "HTTP 401" in (agent.why_not_ready or ""))
        token.write_text(good)
        await pod.is_ready()
        assert good not in str(agent.report)


async def test_a_pod_that_is_deleted_ends_its_reports_quietly(
    pod: TwinPod, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = pod.slot("1"), pod.slot("2")
    await pod.put(pins_of(1, one, two))
    caplog.set_level("INFO", "modelswitch.fleet")
    async with pod.running() as agent:
        await pod.is_ready()
        await pod.condition(lambda found: found["status"] == "True")
        await pod.kubectl("delete", "pod", pod.pod, "--now")
        await pod.put(pins_of(2, two, one))
        # Its token dies with it, a little later: the API server answers 404, then 401.
        await pod.serves(two, 2)
        await until(lambda: "fleet.pod_gone" in caplog.text)
        assert "fleet.report_failed" not in caplog.text
        assert json.loads(agent.report.model_dump_json())["healthy"]
