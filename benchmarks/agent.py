"""What an agent costs that has nothing to do: memory and processor time, beside a real TorchServe.

In the form of a pod (watch of a real API server, health probed as k8s/ has it) and as the local
stack starts it (a folder). Three models are pinned, proven, and stay as they are.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil

from benchmarks.figures import Figure, Measured, Table
from benchmarks.memory import mib
from benchmarks.stack import BenchmarkFailed
from modelswitch.fleet import FolderFleet
from modelswitch.local import processes
from modelswitch.pins import PinnedModel, PinnedSlot, Pins
from modelswitch.settings import PREFIX
from modelswitch.store import FsspecStore
from tests.cluster.binaries import Unavailable, find_or_build
from tests.cluster.control_plane import ControlPlane
from tests.cluster.pods import DEPLOYMENT, PodPair, add_pod, allow_agents, put_archive, put_pins
from tests.site import wait_for

MODELS = ("one", "two", "three")
NAMESPACE = "default"
MEASURED_S = 60.0
SETTLED_S = 10.0
RSS_MIB = 80.0
CPU_PERCENT = 0.5
# As often as k8s/ and a Prometheus ask, seconds
PROBES = {"/readyz": 2.0, "/healthz": 10.0, "/metrics": 15.0}


def measure() -> Measured:
    try:
        binaries = find_or_build()
    except Unavailable as error:
        raise BenchmarkFailed(str(error)) from error
    with tempfile.TemporaryDirectory(prefix="modelswitch-agent-") as name:
        folder = Path(name)
        with ControlPlane(binaries, folder / "plane") as plane:
            plane.add_nodes(1)
            allow_agents(plane, NAMESPACE)
            add_pod(plane, NAMESPACE, "torchserve-0")
            store = FsspecStore((folder / "archives").as_uri())
            pins = _pins(store, folder / "built")
            put_pins(plane, NAMESPACE, pins.text)
            with PodPair(
                plane, NAMESPACE, "torchserve-0", folder / "pod", store_url=store.url
            ) as pair:
                wait_for(lambda: pair.ready()[0] == 200, 120)
                assert pair.agent is not None
                pod = _idle(pair.agent, pair.ask)
                pair.stop_agent()
                with _of_a_folder(pair, pins, folder / "fleet") as agent:
                    local = _idle(agent, lambda _: None)
    rows = [("pod", *_shown(pod)), ("folder", *_shown(local))]
    return Measured(
        "agent",
        (
            Figure("in a pod, idle: memory, RSS", pod[0], "MiB", at_most=RSS_MIB),
            Figure("in a pod, idle: processor", pod[2], "% of a core", at_most=CPU_PERCENT),
            Figure("of a folder, idle: memory, RSS", local[0], "MiB", at_most=RSS_MIB),
            Figure("of a folder, idle: processor", local[2], "% of a core"),
        ),
        (Table(("agent", "RSS MiB", "PSS MiB", "processor %"), rows),),
    )


def _pins(store: FsspecStore, folder: Path) -> Pins:
    models = {}
    for name in MODELS:
        slot = put_archive(store, folder, "1", model=name)
        pinned = PinnedSlot(digest=slot.digest, workers=1)
        models[name] = PinnedModel(default=slot.label, slots={slot.label: pinned})
    return Pins(schema=1, deployment=DEPLOYMENT, generation=1, models=models)


@contextmanager
def _of_a_folder(pair: PodPair, pins: Pins, path: Path) -> Iterator[psutil.Process]:
    """The same server's agent, as the local stack starts one."""
    fleet = FolderFleet(path)
    fleet.publish(pins)
    told = {"FLEET__KIND": "folder", "FLEET__PATH": str(path)}
    kept = {k: v for k, v in pair.part.env.items() if not k.startswith((f"{PREFIX}FLEET",))}
    kept.pop(PREFIX + "SERVER__HEALTH_PORT")
    part = replace(pair.part, env=kept | {PREFIX + k: v for k, v in told.items()})
    agent = processes.start(part.argv, env=part.env, cwd=part.cwd, log=part.log)
    try:
        wait_for(lambda: any(r.healthy and r.generation for r in fleet.reports()), 60)
        yield agent
    finally:
        processes.stop([agent], by=signal.SIGTERM)


def _idle(process: psutil.Process, ask: Callable[[str], object]) -> tuple[float, float, float]:
    """RSS and PSS in MiB, processor time in percent of one core."""
    _pass_time(SETTLED_S, ask)
    before, started = sum(process.cpu_times()[:2]), time.monotonic()
    _pass_time(MEASURED_S, ask)
    spent, took_s = sum(process.cpu_times()[:2]) - before, time.monotonic() - started
    pss, rss = mib(process)
    return rss, pss, 100 * spent / took_s


def _pass_time(seconds: float, ask: Callable[[str], object]) -> None:
    """Ask as the kubelet and Prometheus do meanwhile."""
    ends = time.monotonic() + seconds
    due = dict.fromkeys(PROBES, 0.0)
    while (now := time.monotonic()) < ends:
        for path, every_s in PROBES.items():
            if now >= due[path]:
                ask(path)
                due[path] = now + every_s
        time.sleep(0.2)


def _shown(figures: tuple[float, float, float]) -> tuple[str, str, str]:
    rss, pss, cpu = figures
    return f"{rss:.1f}", f"{pss:.1f}", f"{cpu:.2f}"
