"""A thousand pods on a real API server, and five hundred models in one document.

The pods are kwok's; beside them stand the product's agents, in a process for each core, each with
a watch and client limits of its own, on servers in memory. What is measured is what a switch costs
the cluster and the people who wait for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Measured, Table
from benchmarks.stack import BenchmarkFailed
from modelswitch import pins as pinning
from modelswitch.fleet.condition import DEPLOYMENT_LABEL, POOL_LABEL
from modelswitch.fleet.kubernetes import KubernetesFleet
from modelswitch.ledger import MemoryLedger
from modelswitch.line import Head, Kind, Line, Slot
from modelswitch.moves import Intent, Moves
from modelswitch.overview import differences
from modelswitch.pins import Pins
from modelswitch.reports import Report
from modelswitch.settings import Fleet, Settings, Timeouts
from modelswitch.store import FsspecStore
from tests.cluster.binaries import Unavailable, find_or_build
from tests.cluster.control_plane import ControlPlane
from tests.site import small_archive

NAMESPACE = "scale"
DEPLOYMENT = "scale"
ACCOUNT = "modelswitch-agent"
MODEL = "digits"
SWITCHES = 5
MODELS = 500
REPORTED_S = 10.0
REQUESTS = 3.0
STATUS_S = 2.0
WHY = Intent("a benchmark")
_PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Switch:
    """`reported_s`: from the pins' publishing to the last pod's proof, as the command saw it."""

    verb: str
    reported_s: float
    command_s: float
    requests: float  # a pod, on average
    most_requests: int


def measure(pods: int = 1000) -> Measured:
    """Stage, then promote and roll back, with a load at the start; then `status`, then `diff`."""
    try:
        binaries = find_or_build()
    except Unavailable as error:
        raise BenchmarkFailed(str(error)) from error
    with tempfile.TemporaryDirectory(prefix="modelswitch-scale-") as name:
        folder = Path(name)
        with ControlPlane(binaries, folder / "plane") as plane:
            plane.add_nodes(max(1, pods // 100))
            site = Site(plane, folder, pods)
            with site.agents():
                cold_s = site.load()
                switches = [site.switch(n) for n in range(SWITCHES)]
                status_s = site.status()
                errors = site.counted()["errors"]
    size, diff_s = of_many_models()
    return _measured(pods, cold_s, switches, status_s, errors, size, diff_s)


def _measured(
    pods: int,
    cold_s: float,
    switches: list[Switch],
    status_s: float,
    errors: int,
    size: int,
    diff_s: float,
) -> Measured:
    slowest = max(s.reported_s for s in switches)
    rows = [
        (
            s.verb,
            f"{s.reported_s:.2f}",
            f"{s.command_s:.2f}",
            f"{s.requests:.2f}",
            str(s.most_requests),
        )
        for s in switches
    ]
    return Measured(
        "scale",
        (
            Figure(f"{pods} pods: published to last report", slowest, "s", at_most=REPORTED_S),
            Figure(
                "requests of a pod for a switch",
                max(s.requests for s in switches),
                "",
                at_most=REQUESTS,
            ),
            Figure("status, whole command", status_s, "s", at_most=STATUS_S),
            Figure("first version, from nothing to serving", cold_s, "s"),
            Figure("requests that failed", float(errors), ""),
            Figure(f"{MODELS} models: document", size / 1000, "kB", at_most=1000.0),
            Figure(f"{MODELS} models on 3 servers: diff", diff_s * 1000, "ms"),
        ),
        (Table(("switch", "to last report, s", "command, s", "requests, mean", "most"), rows),),
    )


class Site:
    """The namespace, its pods, the processes of their agents, and the moves."""

    def __init__(self, plane: ControlPlane, folder: Path, pods: int) -> None:
        self.plane = plane
        self.folder = folder
        self.settings = Settings(
            root=folder,
            deployment=DEPLOYMENT,
            store_url=(folder / "archives").as_uri(),
            database_url=f"sqlite:///{folder / 'ledger.db'}",
            fleet=Fleet(kind="kubernetes", kubeconfig=plane.kubeconfig, namespace=NAMESPACE),
            timeouts=Timeouts(load_s=300, prove_s=120),
        )
        self.fleet = Watched(self.settings)
        self.moves = Moves(MemoryLedger(DEPLOYMENT), self.fleet, self.settings)
        self.store = FsspecStore(self.settings.store)
        self._processes: list[subprocess.Popen[str]] = []
        self.names = self._pods(pods)

    def _pods(self, count: int) -> list[str]:
        labels = {DEPLOYMENT_LABEL: DEPLOYMENT, POOL_LABEL: "default"}
        meta = {"namespace": NAMESPACE}
        self.plane.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {**meta, "name": ACCOUNT}},
            *rights(self.settings.config_map),
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {**meta, "name": "torchserve", "labels": labels},
                "spec": {
                    "replicas": count,
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {
                            "serviceAccountName": ACCOUNT,
                            "containers": [{"name": "agent", "image": "modelswitch"}],
                        },
                    },
                },
            },
        )
        self.plane.kubectl(
            *("rollout", "status", "deployment/torchserve", "-n", NAMESPACE),
            f"--timeout={_PATIENCE_S:.0f}s",
        )
        listed = self.plane.kubectl("get", "pods", "-n", NAMESPACE, "-o", "name").stdout
        return [line.removeprefix("pod/") for line in listed.split()]

    @contextmanager
    def agents(self) -> Iterator[None]:
        """The processes of all agents; each agent has a token of its own pod."""
        pods = list(self._kubeconfigs().items())
        count = os.cpu_count() or 1
        with (self.folder / "agents.log").open("w", encoding="utf-8") as log, ExitStack() as all_:
            for place in range(count):
                document = {
                    "namespace": NAMESPACE,
                    "config_map": self.settings.config_map,
                    "deployment": DEPLOYMENT,
                    "store": self.settings.store,
                    "pods": dict(pods[place::count]),
                }
                file = self.folder / f"pods-{place}.json"
                file.write_text(json.dumps(document), encoding="utf-8")
                process = subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.scale_pods", str(file)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
                all_.callback(_end, process)
                self._processes.append(process)
            try:
                for process in self._processes:
                    _line(process)
                yield
            except Exception as error:
                told = (self.folder / "agents.log").read_text(encoding="utf-8")[-2000:]
                raise BenchmarkFailed(f"{error}\n{told}") from error

    def _kubeconfigs(self) -> dict[str, str]:
        from lightkube.models.authentication_v1 import BoundObjectReference, TokenRequestSpec
        from lightkube.models.meta_v1 import ObjectMeta
        from lightkube.resources.core_v1 import ServiceAccountToken as TokenRequest

        folder = self.folder / "tokens"
        folder.mkdir(mode=0o700)
        found: dict[str, str] = {}
        for name in self.names:
            asked = TokenRequest(
                metadata=ObjectMeta(),
                spec=TokenRequestSpec(
                    audiences=[],
                    boundObjectRef=BoundObjectReference(apiVersion="v1", kind="Pod", name=name),
                    expirationSeconds=7200,
                ),
            )
            given = self.fleet.client.create(asked, ACCOUNT, namespace=NAMESPACE)
            token = folder / name
            token.touch(mode=0o600)
            token.write_text(given.status.token)
            found[name] = str(self.plane.kubeconfig_for(token))
        return found

    def counted(self) -> dict[str, Any]:
        """Requests of each pod since its start."""
        for process in self._processes:
            assert process.stdin
            process.stdin.write("counted\n")
            process.stdin.flush()
        told = [_line(process) for process in self._processes]
        return {
            "requests": [count for each in told for count in each["requests"]],
            "errors": sum(each["errors"] for each in told),
        }

    def slot(self, version: str) -> Slot:
        out = self.folder / "built"
        out.mkdir(exist_ok=True)
        path, digest = small_archive(out, MODEL, version)
        self.store.put(path, digest)
        return Slot(version, digest)

    def load(self) -> float:
        """Bring version 1 into Production; seconds, the pods' start included."""
        started = time.monotonic()
        first = self.slot("1")
        self.moves.publish()
        deadline = started + _PATIENCE_S
        while len(self.fleet.reports()) < len(self.names) or any(
            report.error for report in self.fleet.reports()
        ):
            if time.monotonic() > deadline:
                raise BenchmarkFailed("not every pod has reported")
            time.sleep(1.0)
        self.moves.promote(MODEL, first, WHY)
        return time.monotonic() - started

    def switch(self, number: int) -> Switch:
        """A warm promotion of another version; staged before, and quiet before it is measured."""
        slot = self.slot(str(number + 2))
        self.moves.stage(MODEL, slot, WHY)
        self._quiet()
        before = self.counted()["requests"]
        started = time.monotonic()
        self.moves.promote(MODEL, slot, WHY)
        command_s = time.monotonic() - started
        self._quiet()
        after = self.counted()["requests"]
        spent = [b - a for a, b in zip(before, after, strict=True)]
        return Switch(
            f"promote {number + 1}",
            self.fleet.reported_s,
            command_s,
            sum(spent) / len(spent),
            max(spent),
        )

    def _quiet(self) -> None:
        """Until no pod has asked anything for five seconds, heartbeats (a minute apart) aside."""
        last, since = sum(self.counted()["requests"]), time.monotonic()
        while time.monotonic() - since < 5.0:
            time.sleep(0.5)
            now = sum(self.counted()["requests"])
            if now - last > len(self.names) // 20:
                last, since = now, time.monotonic()

    def status(self) -> float:
        """Seconds of the whole command, the best of three."""
        text = (
            f'deployment = "{DEPLOYMENT}"\n[fleet]\nkind = "kubernetes"\n'
            f'namespace = "{NAMESPACE}"\nkubeconfig = "{self.plane.kubeconfig}"\n'
        )
        (self.folder / "modelswitch.toml").write_text(text)
        took = []
        for _ in range(3):
            started = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "modelswitch", "status"],
                cwd=self.folder,
                capture_output=True,
                text=True,
                check=False,
            )
            took.append(time.monotonic() - started)
            if done.returncode not in (0, 3):
                raise BenchmarkFailed(done.stderr)
        print(done.stdout)
        return min(took)


def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout
    text = process.stdout.readline()
    if not text:
        raise BenchmarkFailed("the agents' process has ended")
    found: dict[str, Any] = json.loads(text)
    return found


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.close()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Watched(KubernetesFleet):
    """Times a switch: from the end of the last publishing until every report is at its pins."""

    reported_s = 0.0
    _published_at = 0.0

    def publish(self, pins: Pins, **kwargs: Any) -> Pins:
        before = self.published()
        stands = super().publish(pins, **kwargs)
        if before is None or before.pins != stands:
            self._published_at = time.monotonic()
        return stands

    def watch(self, timeout_s: float) -> Iterator[tuple[Report, ...]]:
        found = self.published()
        generation = found.pins.generation if found else 0
        since, seen = self._published_at, False
        for reports in super().watch(timeout_s):
            if not seen and all(r.generation >= generation and r.healthy for r in reports):
                self.reported_s, seen = time.monotonic() - since, True
            yield reports


def rights(config_map: str) -> tuple[Mapping[str, Any], ...]:
    """The agents' Role and its binding, as Terraform makes them."""
    meta = {"namespace": NAMESPACE, "name": ACCOUNT}
    api = "rbac.authorization.k8s.io"
    return (
        {
            "apiVersion": f"{api}/v1",
            "kind": "Role",
            "metadata": meta,
            "rules": [
                {
                    "apiGroups": [""],
                    "resources": ["configmaps"],
                    "resourceNames": [config_map],
                    "verbs": ["get", "list", "watch"],
                },
                {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]},
            ],
        },
        {
            "apiVersion": f"{api}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": api, "kind": "Role", "name": ACCOUNT},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
        },
    )


def of_many_models() -> tuple[int, float]:
    """Bytes of a document of 500 models of three slots, and seconds of comparing servers to it."""
    from datetime import UTC, datetime

    from modelswitch.reports import ModelReport, Proof, SlotReport, State

    heads = {}
    for number in range(MODELS):
        slots = [Slot(str(n), f"sha256:{number:032x}{n:032x}") for n in (1, 2, 3)]
        line = Line((slots[1], slots[0]), (slots[2],))
        heads[f"model-{number}"] = Head(Kind.SETTLED, line)
    pins = pinning.render(heads, deployment=DEPLOYMENT, generation=1)
    now = datetime.now(UTC)
    models = {
        name: ModelReport(
            default=model.default,
            proof=Proof(digest=model.slots[str(model.default)].digest, at=now),
            slots={x: SlotReport(state=State.PROVEN, workers=1) for x in model.slots},
        )
        for name, model in pins.models.items()
    }
    reports = [
        Report(
            server=name,
            boot_id="b",
            at=now,
            heartbeat_at=now,
            generation=1,
            pins_sha256=pins.sha256,
            models=models,
        )
        for name in ("a", "b", "c")
    ]
    started = time.monotonic()
    found = differences(pins, pins, reports, {}, now)
    took = time.monotonic() - started
    assert not found
    return len(pins.text.encode()), took
