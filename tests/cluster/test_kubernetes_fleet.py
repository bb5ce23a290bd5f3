"""The fleet as commands see it, on a real API server: publishing, and what stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelswitch.errors import FleetUnreachable, PinsError, PinsTooNew, SettingsError, UsageError
from modelswitch.fleet.apiserver import configuration
from modelswitch.fleet.kubernetes import KubernetesFleet
from modelswitch.pins import Pins
from modelswitch.settings import Fleet, Settings
from tests.cluster.control_plane import ControlPlane

MAP = "modelswitch-pins-prod-eu"


def pins(generation: int, epoch: str = "main") -> Pins:
    return Pins(schema=1, deployment="Prod_EU", generation=generation, epoch=epoch)


@pytest.fixture
def settings(plane: ControlPlane, namespace: str, tmp_path: Path) -> Settings:
    fleet = Fleet(
        kind="kubernetes",
        kubeconfig=plane.kubeconfig,
        namespace=namespace,
        pins_file=tmp_path / "tree" / "pins.json",
    )
    return Settings(root=tmp_path, deployment="Prod_EU", fleet=fleet)


@pytest.fixture
def fleet(settings: Settings) -> Iterator[KubernetesFleet]:
    made = KubernetesFleet(settings)
    yield made
    made.client.close()


def stands(plane: ControlPlane, namespace: str) -> str:
    return str(plane.get("configmap", MAP, "-n", namespace)["data"]["pins.json"])


def test_what_is_published_stands_in_the_config_map_and_in_the_working_tree(
    plane: ControlPlane, namespace: str, fleet: KubernetesFleet
) -> None:
    assert fleet.published() is None
    assert fleet.publish(pins(3)) == pins(3)
    assert stands(plane, namespace) == pins(3).text
    assert fleet.settings.fleet.pins_file.read_text() == pins(3).text
    assert fleet.published().pins == pins(3)


def test_a_lower_generation_never_stands(
    plane: ControlPlane, namespace: str, fleet: KubernetesFleet
) -> None:
    fleet.publish(pins(3))
    assert fleet.publish(pins(2)) == pins(3)
    assert stands(plane, namespace) == pins(3).text


def test_a_plan_is_written_and_not_published(fleet: KubernetesFleet) -> None:
    fleet.publish(pins(3))
    file = fleet.write(pins(4))
    assert file.read_text() == pins(4).text
    assert fleet.published().pins == pins(3)
    assert fleet.publish(pins(3)) == pins(3)
    assert file.read_text() == pins(4).text, "a plan that waits is not written over"


@pytest.mark.parametrize(("theirs", "stays"), [(9, 9), (3, 4)])
def test_a_write_in_the_same_moment_loses_nothing(
    theirs: int,
    stays: int,
    plane: ControlPlane,
    namespace: str,
    fleet: KubernetesFleet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Newer pins stand, and what only touches the object keeps nobody from publishing."""
    fleet.publish(pins(3))
    read = fleet._standing
    looks = []

    def overtaken() -> object:
        found = read()
        looks.append(found)
        if len(looks) == 1:
            data = {"pins.json": pins(theirs).text}
            patch = json.dumps({"data": data, "metadata": {"annotations": {"touched": "now"}}})
            plane.kubectl("patch", "configmap", MAP, "-n", namespace, "-p", patch)
        return found

    monkeypatch.setattr(fleet, "_standing", overtaken)
    assert fleet.publish(pins(4)) == pins(stays)
    assert len(looks) == 2
    assert stands(plane, namespace) == pins(stays).text


def test_break_glass_leaves_its_note_beside_the_pins(fleet: KubernetesFleet) -> None:
    fleet.publish(pins(3))
    broken = pins(4, "break-glass-1")
    fleet.publish(broken, correlation_id="c1", note={"reason": "the database is away"})
    found = fleet.published()
    assert found.pins == broken
    assert (found.correlation_id, found.note) == ("c1", {"reason": "the database is away"})
    assert fleet.settings.fleet.pins_file.read_text() == broken.text


def test_an_emergency_needs_no_working_tree(fleet: KubernetesFleet) -> None:
    """A command that hangs holds its lock, and a file system may be read-only."""
    fleet.publish(pins(3))
    emergency = [pins(n, epoch=f"break-glass-{n}") for n in (4, 5)]
    with fleet._locked():
        assert fleet.publish(emergency[0], note={"reason": "x"}) == emergency[0]
    assert fleet.pins_file is not None
    fleet.pins_file.unlink()
    fleet.pins_file.mkdir()
    assert fleet.publish(emergency[1], note={"reason": "x"}) == emergency[1]


def test_rubbish_in_the_config_map_is_told_and_written_over(
    plane: ControlPlane, namespace: str, fleet: KubernetesFleet
) -> None:
    fleet.publish(pins(3))
    for data in ({"pins.json": "{"}, {"pins.json": None, "other": "x"}):
        plane.kubectl("patch", "configmap", MAP, "-n", namespace, "-p", json.dumps({"data": data}))
        with pytest.raises(PinsError, match=f"the ConfigMap {MAP}"):
            fleet.published()
        fleet.publish(pins(4))
        assert fleet.published().pins == pins(4)


def test_a_later_releases_pins_are_not_written_over(
    plane: ControlPlane, namespace: str, fleet: KubernetesFleet
) -> None:
    fleet.publish(pins(3))
    text = json.dumps({"data": {"pins.json": '{"schema": 2}'}})
    plane.kubectl("patch", "configmap", MAP, "-n", namespace, "-p", text)
    with pytest.raises(PinsTooNew):
        fleet.publish(pins(4))


def test_an_empty_namespace_has_no_servers(fleet: KubernetesFleet) -> None:
    assert fleet.reports() == ()
    assert list(fleet.watch(0.2))[-1] == ()


def test_a_pod_is_struck_off_by_deleting_it(fleet: KubernetesFleet) -> None:
    with pytest.raises(UsageError) as refused:
        fleet.forget("torchserve-1")
    assert "kubectl delete pod torchserve-1" in str(refused.value.next)


def test_a_cluster_that_is_away_is_told(settings: Settings, tmp_path: Path) -> None:
    text = settings.fleet.kubeconfig.read_text()
    server = next(line for line in text.splitlines() if "server:" in line)
    away = tmp_path / "away.kubeconfig"
    away.write_text(
        text.replace(server, server.partition("server:")[0] + "server: https://127.0.0.1:1")
    )
    lost = settings.model_copy(
        update={"fleet": settings.fleet.model_copy(update={"kubeconfig": away})}
    )
    with pytest.raises(FleetUnreachable, match="cannot be read: ConnectError"):
        KubernetesFleet(lost).published()


def test_a_context_that_is_not_there_is_told(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        configuration(settings.fleet.model_copy(update={"context": "nowhere"}))
    with pytest.raises(SettingsError, match="no cluster to talk to"):
        configuration(settings.fleet.model_copy(update={"kubeconfig": Path("/nonexistent")}))
