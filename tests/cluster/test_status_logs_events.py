"""`status`, `logs` and Events on a real API server: what people see of pods.

The pods are kwok's. Beside each of a few stands the product's agent with a server in memory; of
many, the test writes the conditions that their agents would.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from lightkube.resources.core_v1 import Pod

from modelswitch.agent.agent import Agent
from modelswitch.agent.slots import Slots
from modelswitch.errors import FleetUnreachable
from modelswitch.fleet import condition
from modelswitch.fleet.kubernetes import KubernetesFleet
from modelswitch.fleet.pod import PodFleet
from modelswitch.fleet.pod_api import PodApi
from modelswitch.fleet.protocol import News
from modelswitch.pins import PinnedModel, PinnedSlot, Pins
from modelswitch.reports import ModelReport, Proof, Report, SlotReport, State
from modelswitch.settings import Fleet, Settings
from tests.cluster.control_plane import ControlPlane
from tests.site import Site, wait_for
from tests.terminal import Said, Terminal

DEPLOYMENT = "story"
DIGEST = "sha256:00000004" + "0" * 56
POOL = "classifier"
NAME = f"torchserve-{POOL}"
LABELS = {
    "app.kubernetes.io/name": "torchserve",
    "modelswitch.dev/deployment": DEPLOYMENT,
    "modelswitch.dev/pool": POOL,
}


def deployment(namespace: str, replicas: int) -> dict[str, Any]:
    confined = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    containers = [
        {"name": name, "image": name, "securityContext": confined}
        for name in ("torchserve", "agent")
    ]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": namespace, "labels": LABELS},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": {"containers": containers}},
        },
    }


def rolled_out(plane: ControlPlane, namespace: str, replicas: int, timeout_s: int = 60) -> None:
    plane.apply(deployment(namespace, replicas))
    waiting = ("rollout", "status", f"deployment/{NAME}", f"--timeout={timeout_s}s")
    plane.kubectl(*waiting, "-n", namespace)


def configured(plane: ControlPlane, namespace: str, folder: Path) -> Settings:
    """The settings of a user in `folder`, written there and as an object."""
    text = (
        f'deployment = "{DEPLOYMENT}"\n[fleet]\nkind = "kubernetes"\n'
        f'namespace = "{namespace}"\nkubeconfig = "{plane.kubeconfig}"\n'
    )
    (folder / "modelswitch.toml").write_text(text)
    fleet = Fleet(kind="kubernetes", namespace=namespace, kubeconfig=plane.kubeconfig)
    return Settings(root=folder, deployment=DEPLOYMENT, fleet=fleet)


class Pods(Site):
    """A site whose fleet is a Deployment: an agent, with a twin, for each of its pods."""

    def __init__(self, folder: Path, settings: Settings, pods: tuple[str, ...]) -> None:
        super().__init__(
            folder,
            servers=pods,
            fleet=KubernetesFleet(settings),  # type: ignore[arg-type]
            pools=dict.fromkeys(pods, POOL),
        )
        timeouts = self.settings.timeouts
        self.settings = settings.model_copy(update={"timeouts": timeouts})
        self.moves = type(self.moves)(self.ledger, self.fleet, self.settings)

    def start(self, name: str) -> None:
        async def begin() -> None:
            mount = self.folder / "mounts" / name
            mount.mkdir(parents=True, exist_ok=True)
            feed = PodFleet(
                PodApi(self.settings.fleet),
                config_map=self.settings.config_map,
                mount=mount,
                pod=name,
            )
            twin = self.twins[name]
            agent = Agent(
                name=name,
                deployment=DEPLOYMENT,
                fleet=feed,
                slots=Slots(twin, self.store, twin.model_store, self.settings.timeouts),
                state_dir=self.folder / "agents" / name,
                pool=POOL,
            )
            self.agents[name] = agent
            self._tasks[name] = asyncio.create_task(agent.run())

        self.on_loop(begin)


@pytest.fixture
def terminal(
    plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Terminal]:
    """A user's, with three pods behind it."""
    rolled_out(plane, namespace, 3)
    monkeypatch.chdir(tmp_path)
    settings = configured(plane, namespace, tmp_path)
    found = plane.get("pods", "-n", namespace)["items"]
    with Pods(tmp_path, settings, tuple(p["metadata"]["name"] for p in found)) as site:
        wait_for(lambda: {r.server for r in site.fleet.reports() if r.boot_id} == set(site.twins))
        yield Terminal(site, capsys)


def promote(terminal: Terminal, version: str, reason: str, *words: str) -> Said:
    if ("digits", version) not in terminal.registry.known:
        terminal.register(version)
    line = ("promote", f"digits@{version}", "--pool", POOL, "--actor", "anna", *words)
    return terminal(*line, "--reason", reason)


def stand(terminal: Terminal, *versions: str) -> None:
    for version in versions:
        said = promote(terminal, version, "first")
        assert said.exit == 0, said.err


def test_kubectl_describe_tells_the_story_of_every_switch(
    plane: ControlPlane, namespace: str, terminal: Terminal
) -> None:
    assert promote(terminal, "1", "the first").exit == 0
    assert promote(terminal, "2", "a look", "--to", "staging").exit == 0
    assert promote(terminal, "2", "better").exit == 0
    assert terminal("rollback", "digits", "--actor", "bob", "--reason", "slow").exit == 0
    terminal.register("3")
    broken = next(iter(terminal.site.twins))
    terminal.site.twins[broken].faults.unloadable.add(terminal.site.slot("3").label)
    assert promote(terminal, "3", "bold").exit == 4

    rows = {e.reason: e.seq for e in reversed(terminal.site.ledger.history("digits"))}
    described = plane.kubectl("describe", f"deployment/{NAME}", "-n", namespace).stdout
    told = [
        " ".join(line.split())
        for line in described.partition("Events:")[2].splitlines()
        if "modelswitch" in line
    ]
    print(described.partition("Events:")[2])
    assert [line.split()[:2] for line in told] == [
        ["Normal", "Promoted"],
        ["Normal", "Staged"],
        ["Normal", "Promoted"],
        ["Normal", "RolledBack"],
        ["Warning", "NotProven"],
    ]
    on = "proven on 3 of 3 pods"
    assert told[0].endswith(
        f"nothing → digits@1 by anna: the first (row {rows['the first']}), {on}"
    )
    assert told[1].endswith(f"digits@2 is in Staging, by anna: a look (row {rows['a look']}), {on}")
    assert told[2].endswith(f"digits@1 → digits@2 by anna: better (row {rows['better']}), {on}")
    back = f"digits@2 → digits@1 by bob: slow (row {rows['slow']}), {on}"
    assert told[3].endswith(f"{back}; digits@2 is quarantined")
    assert f"digits@3 was undone, digits@1 serves, by anna: bold (row {rows['bold']})" in told[4]
    assert f"pod {broken}: " in told[4]


def test_events_are_the_deployments_and_carry_the_whole_word(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    plane.apply(deployment(namespace, 0))
    fleet = KubernetesFleet(configured(plane, namespace, tmp_path))
    fleet.announce(News(POOL, "NotProven", "Ü" * 2000, is_bad=True))
    fleet.announce(News("another-pool", "Promoted", "nobody's"))
    (found,) = [
        event
        for event in plane.get("events", "-n", namespace)["items"]
        if event["source"].get("component") == "modelswitch"
    ]
    assert found["involvedObject"]["kind"] == "Deployment"
    assert (
        found["involvedObject"]["uid"]
        == plane.get(f"deployment/{NAME}", "-n", namespace)["metadata"]["uid"]
    )
    assert len(found["message"].encode()) <= 1024
    assert found["message"].endswith("Ü…")
    fleet.client.close()


def test_who_may_not_write_events_switches_all_the_same(
    plane: ControlPlane, namespace: str, tmp_path: Path, terminal: Terminal
) -> None:
    """With a ServiceAccount that may do all that a switch needs, and write no Events."""
    stand(terminal, "1", "2")
    plane.apply(*_who_may_switch(namespace))
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(plane.kubectl("create", "token", "ci", "-n", namespace).stdout.strip())
    settings = terminal.site.settings
    fleet = settings.fleet.model_copy(update={"kubeconfig": plane.kubeconfig_for(token)})
    limited = KubernetesFleet(settings.model_copy(update={"fleet": fleet}))
    with pytest.raises(FleetUnreachable, match='cannot create resource "events"'):
        limited.announce(News(POOL, "Promoted", "refused"))
    terminal.site.fleet = limited  # type: ignore[assignment]
    done = terminal("rollback", "digits", "--reason", "slow")
    assert (done.exit, done.err) == (0, "")
    assert terminal.site.all_answer() == {"1"}
    told = plane.get("events", "-n", namespace)["items"]
    assert "RolledBack" not in {event["reason"] for event in told}
    limited.client.close()


def _who_may_switch(namespace: str) -> list[dict[str, Any]]:
    look = ["get", "list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": [*look, "create", "patch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": look},
        {"apiGroups": ["apps"], "resources": ["deployments", "replicasets"], "verbs": look},
        {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": look},
    ]
    group = "rbac.authorization.k8s.io"
    of = {"namespace": namespace, "name": "ci"}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": of},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": of, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": of,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "ci"},
            "subjects": [{"kind": "ServiceAccount", **of}],
        },
    ]


def test_a_few_pods_have_a_row_each_and_no_stack_is_asked_for(terminal: Terminal) -> None:
    stand(terminal, "1")
    wait_for(lambda: terminal("status").exit == 0)
    said = terminal("status")
    lines = said.out.splitlines()
    assert "stack" not in said.out
    assert lines[0].split() == [
        *("server", "pool", "generation", "model", "default", "proven", "since", "state")
    ]
    assert {line.split()[0] for line in lines[1:]} == set(terminal.site.twins)
    said = terminal("status", "--json")
    assert said.exit == 0, said
    assert said.data["stack"] is None
    assert said.data["fleet"]["pools"][0]["serving"][0]["servers"] == 3
    assert terminal("status", "--pool", "features").exit == 1


def test_the_log_of_a_pod_that_prints_none_is_told_as_unread(terminal: Terminal) -> None:
    stand(terminal, "1")
    said = terminal("logs", "digits@1")
    assert said.exit == 1
    assert "no pod has trouble with digits@1: 3 of 3" in said.err
    assert said.out.count(" unread the log of ") == 6


PINNED = PinnedModel(
    pool=POOL, default="4-00000004", slots={"4-00000004": PinnedSlot(digest=DIGEST, workers=1)}
)


def test_of_many_pods_the_troubled_are_told_first_and_the_rest_in_one_line(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    rolled_out(plane, namespace, 30)
    fleet = KubernetesFleet(configured(plane, namespace, tmp_path))
    pins = Pins(schema=1, deployment=DEPLOYMENT, generation=41, models={"digits": PINNED})
    fleet.publish(pins)
    names = sorted(p["metadata"]["name"] for p in plane.get("pods", "-n", namespace)["items"])
    for name in names:
        report(fleet, name, pins)
    for name in names[:3]:
        report(fleet, name, pins.model_copy(update={"generation": 40}))
    for name in names[3:8]:
        report(fleet, name, pins, healthy=False, error=f"TorchServe of {name} does not answer")
    fleet.client.close()

    said = subprocess.run(
        [sys.executable, "-m", "modelswitch", "status"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    print(said.stdout)
    assert (said.returncode, said.stderr) == (3, "")
    lines = said.stdout.splitlines()
    assert lines[0] == f"{POOL}  27 of 30 at generation 41, 3 behind"
    assert lines[1].startswith(f"  failing      5  TorchServe of {names[3]} does not answer (or ")
    assert lines[1].endswith(f": {', '.join(names[3:6])} and 2 more")
    assert lines[2] == f"  behind       3  at generation 40: {', '.join(names[:3])}"
    assert lines[3].startswith("  well        22  digits@4 since 2026-05-01")
    assert len(lines) == 4


def report(fleet: KubernetesFleet, pod: str, pins: Pins, **changes: Any) -> None:
    """What the agent of a pod says that is as pinned, but for `changes`."""
    at = datetime(2026, 5, 1, tzinfo=UTC)
    slots = {str(PINNED.default): SlotReport(state=State.PROVEN, workers=1)}
    model = ModelReport(default=PINNED.default, proof=Proof(digest=DIGEST, at=at), slots=slots)
    told = {
        "boot_id": "b",
        "at": at,
        "heartbeat_at": datetime.now(UTC),
        "generation": pins.generation,
        "pins_sha256": pins.sha256,
        "models": {"digits": model},
    }
    made = Report(**{"server": pod, "pool": POOL, **told, **changes})
    patch = {"status": {"conditions": [condition.render(made, pins)]}}
    fleet.client.patch(Pod.Status, pod, patch)
