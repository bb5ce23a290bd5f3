"""An agent in a pod, in the test's own loop: the real API server, a twin as model server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from modelswitch.agent.agent import Agent
from modelswitch.agent.slots import Slots
from modelswitch.fleet.condition import CONDITION, PINS_KEY
from modelswitch.fleet.pod import PodFleet
from modelswitch.fleet.pod_api import PodApi
from modelswitch.line import Slot
from modelswitch.pins import PinnedModel, PinnedSlot, Pins
from modelswitch.servers.twin import TwinServer
from modelswitch.settings import Fleet, Timeouts
from modelswitch.store import FsspecStore
from tests.cluster.control_plane import ControlPlane
from tests.cluster.pods import CONFIG_MAP, DEPLOYMENT, MODEL, add_pod, put_pins, token_file
from tests.site import small_archive

T = TypeVar("T")
PATIENCE_S = 15.0


def pins_of(generation: int, default: Slot | None, *others: Slot) -> Pins:
    """`digits` with this default; the first of the others is its way back."""
    slots = [*([default] if default else []), *others]
    model = PinnedModel(
        default=default.label if default else None,
        back=tuple(s.label for s in others[:1] if default),
        slots={s.label: PinnedSlot(digest=s.digest, workers=1) for s in slots},
    )
    return Pins(schema=1, deployment=DEPLOYMENT, generation=generation, models={MODEL: model})


async def until(condition: Callable[[], T], timeout_s: float = PATIENCE_S) -> T:
    """The first true value; in this loop, so it must be quick."""
    async with asyncio.timeout(timeout_s):
        while not (value := condition()):
            await asyncio.sleep(0.01)
        return value


class TwinPod:
    """`pod` is made; its agent runs inside `with running()`."""

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path, pod: str) -> None:
        add_pod(plane, namespace, pod)
        self.plane = plane
        self.namespace = namespace
        self.folder = folder / pod
        self.pod = pod
        self.mount = self.folder / "mount"
        self.mount.mkdir(parents=True)
        (self.folder / "models").mkdir()
        self.store = FsspecStore((folder / "archives").as_uri())
        self.twin = TwinServer(self.folder / "models")
        self.kubeconfig = plane.kubeconfig_for(token_file(plane, namespace, pod, self.folder))
        self.agent: Agent

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Agent]:
        """A new agent, which is stopped as a kubelet would."""
        api = PodApi(Fleet(kind="kubernetes", kubeconfig=self.kubeconfig, namespace=self.namespace))
        fleet = PodFleet(api, config_map=CONFIG_MAP, mount=self.mount, pod=self.pod)
        timeouts = Timeouts(load_s=5, prove_s=5, unload_s=2)
        self.agent = Agent(
            name=self.pod,
            deployment=DEPLOYMENT,
            fleet=fleet,
            slots=Slots(self.twin, self.store, self.twin.model_store, timeouts),
            state_dir=self.folder / "agent",
        )
        task = asyncio.create_task(self.agent.run())
        try:
            yield self.agent
            assert not task.done(), task.result()
        finally:
            self.agent.stop()
            await asyncio.wait_for(task, 10)

    def slot(self, version: str) -> Slot:
        path, digest = small_archive(self.folder, MODEL, version)
        self.store.put(path, digest)
        return Slot(version, digest)

    async def put(self, pins: Pins | str) -> None:
        text = pins if isinstance(pins, str) else pins.text
        await asyncio.to_thread(put_pins, self.plane, self.namespace, text)

    async def kubectl(self, *words: str) -> None:
        await asyncio.to_thread(self.plane.kubectl, *words, "-n", self.namespace)

    def mounts(self, pins: Pins) -> None:
        """What the kubelet does, at once."""
        fresh = self.mount / f"..{pins.generation}-{pins.sha256[:8]}"
        fresh.mkdir()
        (fresh / PINS_KEY).write_text(pins.text)
        if not (link := self.mount / PINS_KEY).is_symlink():
            link.symlink_to(Path("..data") / PINS_KEY)
        (self.mount / "..data_tmp").symlink_to(fresh.name)
        (self.mount / "..data_tmp").rename(self.mount / "..data")

    async def serves(self, slot: Slot, generation: int, timeout_s: float = PATIENCE_S) -> None:
        def proven() -> bool:
            report = self.agent.report
            return (
                report is not None
                and report.generation == generation
                and report.proves(MODEL, slot.label, slot.digest)
            )

        await until(proven, timeout_s)

    async def says(self, text: str) -> None:
        """Wait until the agent's error holds this text."""
        await until(lambda: self.agent.report and text in (self.agent.report.error or ""))

    async def is_ready(self) -> None:
        await until(lambda: self.agent.why_not_ready is None)

    async def condition(self, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The condition in the pod's status, once `holds` is true of it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                pod = await asyncio.to_thread(
                    self.plane.get, f"pod/{self.pod}", "-n", self.namespace
                )
                for found in pod["status"]["conditions"]:
                    if found["type"] == CONDITION and holds(found):
                        return dict(found)


def without_api(kubeconfig: Path) -> Path:
    """The same, of an API server that is not there."""
    lines = [
        f"{line.partition('server:')[0]}server: https://127.0.0.1:1" if "server:" in line else line
        for line in kubeconfig.read_text().splitlines()
    ]
    away = kubeconfig.with_name("away.kubeconfig")
    with os.fdopen(os.open(away, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write("\n".join(lines))
    return away
