"""The dev overlay on the test cluster: three pods, each with a real TorchServe and its agent.

MLflow, PostgreSQL and the archive store are the shared stack's; the deployment is its own. What a
user types is run as typed, in a folder with a modelswitch.toml.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from modelswitch.fleet.condition import CONDITION
from modelswitch.ledger import quarantine
from modelswitch.line import Line, Slot
from modelswitch.moves import Intent
from modelswitch.refs import ModelRef
from modelswitch.settings import load
from modelswitch.switch import ModelSwitch
from tests import terraform
from tests.cluster.binaries import Binaries
from tests.cluster.control_plane import ControlPlane
from tests.cluster.pods import PodPair
from tests.stack.deployment import Deployment, Said, ended, wait_for
from tests.stack.models import LIGHT, REQUEST, document_of, register_light

ROOT = Path(__file__).parents[2]
NAMESPACE = "modelswitch-dev"
DEPLOYMENT = "dev"
PODS = 3
WHY = Intent("a test on the cluster")
SETTINGS = """
deployment = "{deployment}"
primary = false
tracking_uri = "{tracking_uri}"
store_url = "{store}"

[fleet]
kind = "kubernetes"
namespace = "{namespace}"
pins_file = "pins.json"

[timeouts]
load_s = 60
prove_s = 15
"""


class Site:
    """`pairs` by pod. `root` is the working tree: modelswitch.toml and pins.json."""

    def __init__(
        self, plane: ControlPlane, binaries: Binaries, stack: Deployment, root: Path
    ) -> None:
        self.plane = plane
        self.stack = stack
        self.root = root
        self.pairs: dict[str, PodPair] = {}
        self._slots: dict[str, Slot] = {}
        self._started: list[PodPair] = []
        root.mkdir(parents=True, exist_ok=True)
        text = SETTINGS.format(
            deployment=DEPLOYMENT,
            tracking_uri=stack.tracking_uri,
            store=stack.settings.store,
            namespace=NAMESPACE,
        )
        (root / "modelswitch.toml").write_text(text)
        # What is typed finds them by their names
        programs = root / "bin"
        programs.mkdir()
        (programs / "kubectl").symlink_to(binaries["kubectl"])
        (programs / "modelswitch").write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m modelswitch "$@"\n'
        )
        (programs / "modelswitch").chmod(0o755)
        for name in ("k8s", "terraform"):
            (root / name).symlink_to(ROOT / name)
        self.env = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "KUBECACHEDIR": str(root / "kube-cache"),
            "KUBECONFIG": str(plane.kubeconfig),
            "MODELSWITCH_DATABASE_URL": stack.stack.addresses.database_url,
            "MODELSWITCH_ACTOR": "tests",
        }

    # Pods

    def lose(self) -> None:
        """All that was in the cluster, the pods' own disks too."""
        self.close()
        self.pairs.clear()
        self.type("kubectl delete -k k8s/admission")
        self.type(f"kubectl delete namespace {NAMESPACE} --wait --timeout=120s")

    def deploy(self) -> None:
        """The dev overlay as documented, scaled to three."""
        self.type("kubectl apply -k k8s/admission")
        self.type("kubectl apply -k k8s/overlays/dev")
        self.type(f"kubectl scale deployment torchserve -n {NAMESPACE} --replicas={PODS}")

    def pods(self) -> list[str]:
        """Those of the Deployment that are not being deleted."""
        found = self.plane.get("pods", "-n", NAMESPACE)["items"]
        return [
            pod["metadata"]["name"]
            for pod in found
            if "deletionTimestamp" not in pod["metadata"]
            and pod.get("status", {}).get("phase") == "Running"
        ]

    def start_pods(self, count: int = PODS) -> None:
        """A pair beside each pod that has none yet."""
        wait_for(lambda: len(self.pods()) == count)
        for pod in self.pods():
            if pod not in self.pairs:
                self.start_pair(pod)
        wait_for(lambda: all(self.condition(pod) for pod in self.pairs))

    def start_pair(self, pod: str, **more: Any) -> PodPair:
        pair = PodPair(
            self.plane,
            NAMESPACE,
            pod,
            self.root / "pods" / pod,
            deployment=DEPLOYMENT,
            **{"store_url": self.stack.settings.store, "mount_delay_s": 30.0, **more},
        )
        self.pairs[pod] = pair.__enter__()
        self._started.append(pair)
        return pair

    def move_to_store(self, url: str) -> str:
        """Let the first pod's agent fetch from another archive store; the pod."""
        pod, pair = next(iter(self.pairs.items()))
        pair.stop_agent()
        pair.tell(STORE_URL=url)
        pair.start_agent()
        wait_for(lambda: self.serves(pair) is not None)
        return pod

    @contextmanager
    def published_by_terraform(self, folder: Path) -> Iterator[None]:
        """Meanwhile examples/cluster publishes, with its state in the namespace.

        Skips the test where no provider can be had.
        """
        root = terraform.copy(folder) / "examples" / "cluster"
        before = {**self.env}
        self.env |= {
            "KUBE_CONFIG_PATH": str(self.plane.kubeconfig),
            "TF_VAR_namespace": NAMESPACE,
            "TF_VAR_pools": '{default="torchserve"}',
            "MODELSWITCH_FLEET__TERRAFORM_DIR": str(root),
            "MODELSWITCH_FLEET__PINS_FILE": str(root / "pins.json"),
        }
        try:
            published = self.switch.fleet.published()
            assert published is not None
            (root / "pins.json").write_text(published.pins.text)
            terraform.init(root, f"-backend-config=namespace={NAMESPACE}", env=self.env)
            address = "module.serving.kubernetes_config_map_v1.pins"
            name = f"{NAMESPACE}/{self.switch.settings.config_map}"
            terraform.run(root, "import", address, name, variables=self.env)
            terraform.run(root, "apply", "-auto-approve", variables=self.env)
            yield
        finally:
            self.env = before
            shutil.copy(root / "pins.json", self.root / "pins.json")

    def close(self) -> None:
        """All at once: each agent lets its server's callers go first."""
        started, self._started = self._started, []
        with ThreadPoolExecutor() as pool:
            list(pool.map(PodPair.__exit__, started))

    def condition(self, pod: str) -> Mapping[str, Any] | None:
        """What the pod's agent has reported."""
        status = self.plane.get("pod", pod, "-n", NAMESPACE)["status"]
        found = [c for c in status.get("conditions", ()) if c["type"] == CONDITION]
        return {**found[0], "report": json.loads(found[0]["message"])} if found else None

    @property
    def urls(self) -> list[str]:
        return [pair.inference_url for pair in self.pairs.values()]

    # Command lines

    def type(self, line: str, *, check: bool = True) -> str:
        """Run a line as a user types it in the working tree; what it printed."""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.root,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert not check or done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "modelswitch", "--json", *words],
            cwd=self.root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> Said:
        return ended(self.start(*words))

    def well(self, *words: str) -> dict[str, Any]:
        """The `data` of a line that must end with 0."""
        said = self.run(*words)
        assert said.exit == 0, said
        data: dict[str, Any] = said.document["data"]
        return data

    def wait_exit(self, code: int, *words: str) -> Said:
        """Until a line ends so; what it said."""
        deadline = time.monotonic() + 60.0
        while (said := self.run(*words)).exit != code:
            assert time.monotonic() < deadline, said
        return said

    @cached_property
    def switch(self) -> ModelSwitch:
        settings = load(start=self.root)
        fleet = settings.fleet.model_copy(update={"kubeconfig": self.plane.kubeconfig})
        settings = settings.model_copy(
            update={"fleet": fleet, "database_url": self.env["MODELSWITCH_DATABASE_URL"]}
        )
        return ModelSwitch(settings, actor="tests")

    # The line

    def stand(self, default: str, back: str) -> None:
        """`light` serves `default` with `back` as its way back, whatever was before."""
        self.switch.resume(now=True)
        for entry in quarantine(self.switch.ledger.history(LIGHT)):
            self.switch.moves.lift(LIGHT, entry.slot.version, WHY)
        if [slot.version for slot in self.line.serving] != [default, back]:
            for version in (back, default):
                self.switch.moves.promote(LIGHT, self.slot(version), WHY)
        for candidate in self.line.candidates:
            self.switch.moves.retire(LIGHT, candidate, WHY)
        self.switch.resume()  # the marks too
        wait_for(lambda: set(self.serve().values()) == {default})

    def slot(self, version: str) -> Slot:
        if version not in self._slots:
            self._slots[version] = self.switch.build(ModelRef(LIGHT, version=version)).slot
        return self._slots[version]

    @property
    def line(self) -> Line:
        event = self.switch.ledger.head(LIGHT)
        return event.head.line if event else Line()

    # What is served

    def serves(self, pair: PodPair) -> str | None:
        try:
            answer = pair.predict(LIGHT, REQUEST)
        except httpx.HTTPError:
            return None
        if answer.status_code != 200:
            return None
        version = answer.headers["x-model-version"].partition("@")[2]
        assert answer.json() == document_of(version, LIGHT)
        return version

    def serve(self) -> dict[str, str | None]:
        """What each pod's default path answers with."""
        return {pod: self.serves(pair) for pod, pair in self.pairs.items()}

    def assert_one_story(self, version: str | None) -> None:
        """Ledger, ConfigMap, every pod and the working tree say the same."""
        self.wait_exit(0, "diff")
        assert set(self.serve().values()) == {version}
        default = self.line.default
        assert (default.version if default else None) == version
        published = self.switch.fleet.published()
        assert published is not None
        assert (self.root / "pins.json").read_text() == published.pins.text
        self.switch.ledger.verify()


@contextmanager
def running_site(
    plane: ControlPlane, binaries: Binaries, stack: Deployment, root: Path
) -> Iterator[Site]:
    """Deployed, and three pods that report."""
    register_light(stack.tracking_uri)
    made = Site(plane, binaries, stack, root)
    try:
        made.deploy()
        made.switch.moves.publish()
        made.start_pods()
        yield made
    finally:
        made.close()
        made.switch.ledger.close()
        plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def damaged(store: Path, digest: str, folder: Path) -> Path:
    """A store like `store`, in which the archive of `digest` has one byte changed."""
    shutil.copytree(store, folder)
    file = folder / "archives" / f"{digest.removeprefix('sha256:')}.mar"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    return folder
