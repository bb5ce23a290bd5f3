"""The agent as a process beside a real TorchServe: it starts, heals, and ends in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelswitch.line import Slot
from modelswitch.store import FsspecStore
from tests.cluster.control_plane import ControlPlane
from tests.cluster.pods import GOLDEN, MODEL, PodPair, add_pod, allow_agents, put_archive, put_pins
from tests.cluster.twin_pod import pins_of
from tests.site import wait_for

PATIENCE_S = 60.0


class Pod:
    def __init__(self, plane: ControlPlane, namespace: str, pair: PodPair, slots: list[Slot]):
        self.plane, self.namespace, self.pair, self.slots = plane, namespace, pair, slots

    def pin(self, generation: int, default: Slot, *others: Slot) -> None:
        put_pins(self.plane, self.namespace, pins_of(generation, default, *others).text)

    def answers(self, version: str) -> bool:
        answer = self.pair.predict(MODEL, GOLDEN)
        return answer.status_code == 200 and answer.json() == {"predictions": [int(version)]}

    def is_ready(self) -> bool:
        return self.pair.ready()[0] == 200


@pytest.fixture
def pod(plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Pod]:
    """Version 1 serves, 2 is warm; both of generation 1."""
    store = FsspecStore((tmp_path / "archives").as_uri())
    one, two = (put_archive(store, tmp_path / "built", version) for version in "12")
    allow_agents(plane, namespace)
    add_pod(plane, namespace, "torchserve-0")
    put_pins(plane, namespace, pins_of(1, one, two).text)
    with PodPair(
        plane, namespace, "torchserve-0", tmp_path / "pod", store_url=store.url, mount_delay_s=0
    ) as pair:
        made = Pod(plane, namespace, pair, [one, two])
        wait_for(made.is_ready, PATIENCE_S)
        wait_for(lambda: pair.report().is_warm(MODEL, two.label), PATIENCE_S)
        yield made


def test_a_pod_heals_and_ends_in_order(pod: Pod) -> None:
    pair, (one, two) = pod.pair, pod.slots
    assert pod.answers("1")
    assert "torch" in pair.report().env.packages

    pod.pin(2, two, one)
    wait_for(lambda: pod.answers("2"), 5.0)

    # TorchServe ends, comes back and has forgotten everything.
    pair.stop_server()
    wait_for(lambda: not pod.is_ready(), PATIENCE_S)
    pair.start_server()
    wait_for(pod.is_ready, PATIENCE_S)
    assert pod.answers("2")

    # The agent is killed; what serves goes on, and a new one, which finds its pins, proves it.
    pair.kill_agent()
    assert pod.answers("2")
    pair.start_agent()
    wait_for(pod.is_ready, PATIENCE_S)
    wait_for(lambda: pair.report().proves(MODEL, two.label, two.digest), PATIENCE_S)

    assert pair.stop_agent() == 0
    assert pod.answers("2")
    log = (pair.folder / "agent.log").read_text()
    assert "Traceback" not in log
    token = (pair.folder / "token").read_text()
    assert token not in log
