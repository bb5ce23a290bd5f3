"""A pod as far as our code can tell: a real TorchServe and a real agent, beside a Pod object.

with PodPair(plane, namespace, "torchserve-0", folder, store_url=…) as pair:
    pair.ready()           # (200, "ok")
    pair.inference_url     # what a gateway would ask

The Pod is there already (of a Deployment that kwok runs, or by `add_pod`). The pair has folders
for its emptyDirs, a token bound to its Pod, and a mounted ConfigMap that is as late as one says.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from modelswitch.archive.document import Document, Identity, Signature
from modelswitch.archive.golden import Golden
from modelswitch.archive.recipe import Recipe
from modelswitch.archive.writer import write
from modelswitch.fleet.condition import DEPLOYMENT_LABEL, PINS_KEY, POOL_LABEL
from modelswitch.handlers import entry_point
from modelswitch.line import Slot
from modelswitch.local import processes
from modelswitch.local.part import Part, clean_environment, why_no_answer
from modelswitch.local.ports import LOOPBACK
from modelswitch.reports import Report
from modelswitch.settings import PREFIX, pins_name
from modelswitch.store import ArchiveStore
from tests.cluster.control_plane import ControlPlane, free_port
from tests.contract.servers import HANDLER, TorchServeHouse
from tests.site import wait_for
from tests.stack.machine import free_port_base

ACCOUNT = "modelswitch-agent"
DEPLOYMENT = "test"
CONFIG_MAP = pins_name(DEPLOYMENT)
MODEL = "digits"
GOLDEN = {"inputs": [1, 2]}
_MANAGED = {"app.kubernetes.io/name": "torchserve"}
_CONFINED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def allow_agents(plane: ControlPlane, namespace: str, config_map: str = CONFIG_MAP) -> None:
    """The agents' ServiceAccount and its rights, where no manifests of k8s/ bring them."""
    of = {"namespace": namespace, "name": ACCOUNT}
    one = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [config_map]}
    own = {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]}
    group = "rbac.authorization.k8s.io"
    plane.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": of},
        {
            "apiVersion": f"{group}/v1",
            "kind": "Role",
            "metadata": of,
            "rules": [{**one, "verbs": ["get", "list", "watch"]}, own],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": of,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": ACCOUNT},
            "subjects": [{"kind": "ServiceAccount", **of}],
        },
    )


def add_pod(plane: ControlPlane, namespace: str, name: str, *, pool: str = "default") -> None:
    """A Pod that no controller owns, Running when this returns."""
    labels = {**_MANAGED, DEPLOYMENT_LABEL: DEPLOYMENT, POOL_LABEL: pool}
    container = {"name": "torchserve", "image": "torchserve", "securityContext": _CONFINED}
    plane.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {"serviceAccountName": ACCOUNT, "containers": [container]},
        }
    )
    plane.kubectl("wait", f"pod/{name}", "-n", namespace, "--for=condition=Ready", "--timeout=60s")


def put_pins(plane: ControlPlane, namespace: str, text: str, config_map: str = CONFIG_MAP) -> None:
    """What `terraform apply` or `kubectl apply` of an export does."""
    metadata = {"name": config_map, "namespace": namespace}
    data = {PINS_KEY: text}
    plane.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def token_file(plane: ControlPlane, namespace: str, pod: str, folder: Path) -> Path:
    """A token bound to a Pod, in a file of its own with mode 600."""
    path = folder / "token"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(plane.pod_token(namespace, ACCOUNT, pod))
    return path


def put_archive(
    store: ArchiveStore, folder: Path, version: str, *, model: str = MODEL, load: str = "pass"
) -> Slot:
    """An archive that TorchServe serves, without weights; `load` is run when a worker loads.

    It answers its golden request `GOLDEN` with `{"predictions": [version]}`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draft = Document(
        schema=1,
        identity=Identity(model=model, version=version, run_id=None, source=f"models:/m-{version}"),
        signature=Signature(inputs=[]),
        recipe=Recipe(handler="torch", response_timeout_s=1),
        golden=Golden(kind="exact", request=GOLDEN, expected={"predictions": [int(version)]}),
        entries={},
    )
    handler = HANDLER.replace("LOAD", load).encode()
    written = write(folder, draft, {entry_point(draft.recipe.handler): handler})
    store.put(written.path, written.digest)
    return Slot(version, written.digest)


class Mount:
    """A ConfigMap mounted into a folder: a thread that does what the kubelet does.

    What is new appears `delay_s` after it is seen, in a folder of its own, when `..data` moves
    onto that. A ConfigMap that is deleted stays mounted.
    """

    def __init__(
        self,
        plane: ControlPlane,
        namespace: str,
        folder: Path,
        *,
        config_map: str = CONFIG_MAP,
        delay_s: float = 0.0,
    ) -> None:
        from lightkube import Client, KubeConfig

        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.delay_s = delay_s
        self._config_map = config_map
        config = KubeConfig.from_file(plane.kubeconfig)
        self._client = Client(config, namespace=namespace, trust_env=False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="kubelet")

    def __enter__(self) -> Mount:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def write(self, data: Mapping[str, str]) -> None:
        """Swap in other files, as one rename."""
        fresh = self.folder / f"..{uuid.uuid4().hex}"
        fresh.mkdir()
        for name, text in data.items():
            (fresh / name).write_text(text, encoding="utf-8")
            if not (link := self.folder / name).is_symlink():
                link.symlink_to(Path("..data") / name)
        (moving := self.folder / "..data_tmp").symlink_to(fresh.name)
        moving.rename(self.folder / "..data")

    def _run(self) -> None:
        from httpx2 import HTTPError
        from lightkube.resources.core_v1 import ConfigMap

        mounted: Mapping[str, str] | None = None
        while not self._stop.wait(0.2):
            try:
                data = self._client.get(ConfigMap, self._config_map).data
            except HTTPError:  # not there, or the API server is away
                continue
            if data is not None and data != mounted and not self._stop.wait(self.delay_s):
                self.write(data)
                mounted = data


class PodPair:
    """`pod` must be there. Started with `with`, or part by part; logs are in `folder`."""

    def __init__(
        self,
        plane: ControlPlane,
        namespace: str,
        pod: str,
        folder: Path,
        *,
        store_url: str,
        deployment: str = DEPLOYMENT,
        config_map: str | None = None,
        pool: str = "default",
        mount_delay_s: float = 60.0,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """`settings`: more for the agent, as `{"TIMEOUTS__UNLOAD_S": 5}`."""
        folder.mkdir(parents=True, exist_ok=True)
        name = config_map or pins_name(deployment)
        self.pod = pod
        self.folder = folder
        self.mount = Mount(
            plane, namespace, folder / "mount", config_map=name, delay_s=mount_delay_s
        )
        self.server = TorchServeHouse(folder, free_port_base())
        self.inference_url = self.server.part.address
        self.health_port = free_port()
        self.health_url = f"http://{LOOPBACK}:{self.health_port}"
        self.environment_file = folder / "environment.json"
        self.agent: psutil.Popen | None = None
        self._is_served = False
        self._undo = ExitStack()
        told: dict[str, object] = {
            "DEPLOYMENT": deployment,
            "STORE_URL": store_url,
            "FLEET__KIND": "kubernetes",
            "FLEET__KUBECONFIG": plane.kubeconfig_for(token_file(plane, namespace, pod, folder)),
            "FLEET__NAMESPACE": namespace,
            "FLEET__CONFIG_MAP": name,
            "FLEET__MOUNT": self.mount.folder,
            "LOCAL__STATE_DIR": folder / "agent",
            "SERVER__NAME": pod,
            "SERVER__POOL": pool,
            "SERVER__INFERENCE_URL": self.inference_url,
            "SERVER__MANAGEMENT_URL": self.server.management_url,
            "SERVER__MODEL_STORE": self.server.store,
            "SERVER__LOG_DIR": self.server.folders.server_logs("a"),
            "SERVER__HEALTH_PORT": self.health_port,
            "SERVER__ENVIRONMENT_FILE": self.environment_file,
            "LOG": "json:INFO",
            **(settings or {}),
        }
        self.part = Part(
            name=f"agent of {pod}",
            argv=(sys.executable, "-m", "modelswitch", "agent"),
            env=clean_environment() | {PREFIX + key: str(value) for key, value in told.items()},
            cwd=folder,
            log=folder / "agent.log",
            address=self.health_url,
            why_not=lambda _: why_no_answer(f"{self.health_url}/healthz"),
        )

    def __enter__(self) -> PodPair:
        with ExitStack() as undo:
            undo.enter_context(self.mount)
            undo.callback(self.stop_server)
            undo.callback(self.stop_agent)
            self.start_agent()  # a native sidecar is there before the server
            self.start_server()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._undo.close()

    # The agent

    def tell(self, **settings: object) -> None:
        """Other settings, from the agent's next start on."""
        more = {PREFIX + key: str(value) for key, value in settings.items()}
        self.part = replace(self.part, env={**self.part.env, **more})

    def start_agent(self) -> None:
        """Its process; it listens when this returns."""
        part = self.part
        self.agent = processes.start(part.argv, env=part.env, cwd=part.cwd, log=part.log)
        agent = self.agent

        def listens() -> bool:
            assert agent.poll() is None, processes.tail(part.log)
            return part.why_not(0.0) is None

        wait_for(listens, 60.0)

    def stop_agent(self, wait_s: float = 90.0) -> int | None:
        """SIGTERM, as the kubelet sends it; the exit code."""
        if self.agent is None:
            return None
        agent, self.agent = self.agent, None
        agent.send_signal(signal.SIGTERM)
        try:
            return int(agent.wait(wait_s))
        finally:
            processes.stop([agent], by=signal.SIGKILL)

    def kill_agent(self) -> None:
        """As an out-of-memory kill."""
        if self.agent is not None:
            processes.stop([self.agent], by=signal.SIGKILL)
            self.agent = None

    # The server

    def start_server(self) -> None:
        """It answers when this returns, and has no models."""
        self.server.start()
        self._is_served = True
        self._write_environment()

    def stop_server(self) -> None:
        """As the end of its container: its workers end too, and it forgets everything."""
        if self._is_served:
            self._is_served = False
            self.server.stop()

    # What is seen from outside

    def ask(self, path: str) -> tuple[int, str]:
        answer = httpx.get(self.health_url + path, timeout=5, trust_env=False)
        return answer.status_code, answer.text

    def ready(self) -> tuple[int, str]:
        """The status of /readyz and its line."""
        status, text = self.ask("/readyz")
        return status, text.strip()

    def report(self) -> Report:
        return Report.model_validate_json(self.ask("/report")[1])

    def predict(self, model: str, body: Any, **more: Any) -> httpx.Response:
        url = f"{self.inference_url}/predictions/{model}"
        return httpx.post(url, json=body, timeout=30, trust_env=False, **more)

    def _write_environment(self) -> None:
        """What TorchServe's image writes for the agent when it starts."""
        from modelswitch.agent.environment import environment

        own = environment(None)()
        self.environment_file.write_text(
            own.model_dump_json(include={"python", "packages"}), encoding="utf-8"
        )
