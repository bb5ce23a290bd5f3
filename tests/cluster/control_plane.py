"""One Kubernetes control plane on loopback, in a folder of its own, for a test or a benchmark.

with ControlPlane(binaries, folder) as plane:
    plane.add_nodes(3)
    plane.apply(manifest)
    plane.kubectl("rollout", "status", "deployment/x")
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from modelswitch.local import processes
from modelswitch.local.ports import LOOPBACK
from tests.cluster.binaries import STAGES, Binaries

STARTED_IN_S = 60.0
_ISSUER = "https://kubernetes.default.svc"


class ControlPlane:
    """etcd, API server, controller manager, scheduler and kwok; stopped by their pids at the end.

    `kubeconfig` is the administrator's (file mode 600), `ca_file` proves `url`.
    """

    def __init__(self, binaries: Binaries, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._running: dict[str, psutil.Popen] = {}
        self._port, self._etcd_port, self._peer_port = (free_port() for _ in range(3))
        self.url = f"https://{LOOPBACK}:{self._port}"
        self.ca_file = folder / "certificates" / "apiserver.crt"
        self.kubeconfig = folder / "admin.kubeconfig"

    def __enter__(self) -> ControlPlane:
        with ExitStack() as undo:
            undo.callback(self._stop_all)
            self._write_secrets()
            self._start_etcd()
            self.start_api_server()
            self._start_the_rest()
            undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop_all()

    # What tests do with it

    def kubectl(
        self, *words: str, input: str | None = None, check: bool = True, token: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """kubectl as the administrator, or as whose token a file holds.

        Raises AssertionError with what kubectl said when it fails, unless `check` is false.
        """
        config = self.kubeconfig if token is None else self.kubeconfig_for(token)
        done = subprocess.run(
            [str(self._binaries["kubectl"]), *words],
            env=self._environment(config),
            input=input,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(words)}: {done.stderr or done.stdout}")
        return done

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(manifests))

    def get(self, *words: str) -> Any:
        """`kubectl get … -o yaml`, read."""
        return yaml.safe_load(self.kubectl("get", *words, "-o", "yaml").stdout)

    def add_nodes(self, count: int, **resources: str) -> list[str]:
        """Nodes that kwok keeps, Ready when this returns; `resources` over 64 CPUs, 256 GiB."""
        first = len(self.get("nodes")["items"])
        names = [f"node-{first + n}" for n in range(count)]
        self.apply(*(_node(name, resources) for name in names))
        self.kubectl(
            "wait", "--for=condition=Ready", "--timeout=60s", *(f"node/{n}" for n in names)
        )
        return names

    def pod_token(self, namespace: str, service_account: str, pod: str, *, hours: int = 1) -> str:
        """A token as a pod's own mounted one: it dies with the pod, and names it to admission."""
        return self.kubectl(
            *("create", "token", service_account, f"--namespace={namespace}"),
            *("--bound-object-kind=Pod", f"--bound-object-name={pod}", f"--duration={hours}h"),
        ).stdout.strip()

    def kubeconfig_for(self, token: Path) -> Path:
        """A kubeconfig beside a token's file, which it names and does not hold."""
        path = token.with_name(token.name + ".kubeconfig")
        _write_private(path, self._kubeconfig({"tokenFile": str(token)}))
        return path

    def stop_api_server(self) -> None:
        """As a crash does: clients are refused, etcd keeps the data, the others wait."""
        # Asked to end, it would wait for its watchers to leave
        processes.stop([self._running.pop("kube-apiserver")], by=signal.SIGKILL)

    def start_api_server(self) -> None:
        """On the same port, with the same data, certificates and tokens."""
        self._start(
            "kube-apiserver",
            f"--etcd-servers=http://{LOOPBACK}:{self._etcd_port}",
            f"--bind-address={LOOPBACK}",
            f"--secure-port={self._port}",
            f"--advertise-address={LOOPBACK}",
            "--endpoint-reconciler-type=none",
            f"--cert-dir={self.ca_file.parent}",
            "--service-cluster-ip-range=10.0.0.0/24",
            f"--service-account-issuer={_ISSUER}",
            f"--service-account-key-file={self._signing_key}",
            f"--service-account-signing-key-file={self._signing_key}",
            f"--token-auth-file={self._folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
        )
        self._wait("kube-apiserver", lambda: self._answers("get", "--raw", "/readyz"))

    # How it is started

    @property
    def _signing_key(self) -> Path:
        return self._folder / "service-accounts.pem"

    def _write_secrets(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        token = secrets.token_urlsafe(32)
        _write_private(self._folder / "tokens.csv", f'{token},admin,admin,"system:masters"\n')
        _write_private(self.kubeconfig, self._kubeconfig({"token": token}))
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        _write_private(self._signing_key, key.decode())

    def _kubeconfig(self, user: Mapping[str, str]) -> str:
        cluster = {"server": self.url, "certificate-authority": str(self.ca_file)}
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "loopback", "cluster": cluster}],
                "users": [{"name": "user", "user": dict(user)}],
                "contexts": [
                    {"name": "loopback", "context": {"cluster": "loopback", "user": "user"}}
                ],
                "current-context": "loopback",
            }
        )

    def _start_etcd(self) -> None:
        client, peer = (f"http://{LOOPBACK}:{p}" for p in (self._etcd_port, self._peer_port))
        self._start(
            "etcd",
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )

    def _start_the_rest(self) -> None:
        # Port 0: they listen nowhere
        self._start(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--service-account-private-key-file={self._signing_key}",
            f"--root-ca-file={self.ca_file}",
            "--leader-elect=false",
            "--secure-port=0",
            # kwok says once that its nodes are Ready: none may be given up for its silence
            "--node-monitor-grace-period=24h",
            # It looks at an autoscaler first when one period is over: 15 s by default
            "--horizontal-pod-autoscaler-sync-period=1s",
        )
        self._start(
            "kube-scheduler",
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            "--secure-port=0",
        )
        self._start(
            "kwok",
            f"--kubeconfig={self.kubeconfig}",
            f"--config={self._binaries[STAGES]}",
            "--manage-all-nodes=true",
            "--node-port=0",
            "--server-address=",
        )
        self._wait(
            "kube-controller-manager",
            lambda: self._answers("get", "serviceaccount/default", "--namespace=default"),
        )

    def _start(self, name: str, *words: str) -> None:
        self._running[name] = processes.start(
            [str(self._binaries[name]), *words],
            env=self._environment(self.kubeconfig),
            cwd=self._folder,
            log=self._log(name),
        )

    def _wait(self, name: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + STARTED_IN_S
        while not condition():
            dead = [n for n, process in self._running.items() if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                told = "\n".join(processes.tail(self._log(n)) for n in dead or [name])
                raise AssertionError(f"{', '.join(dead) or name} did not start:\n{told}")
            time.sleep(0.05)

    def _answers(self, *words: str) -> bool:
        return self.kubectl(*words, check=False).returncode == 0

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _environment(self, kubeconfig: Path) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._folder),  # kubectl keeps what it discovers there
            "KUBECONFIG": str(kubeconfig),
        }

    def _stop_all(self) -> None:
        # Clients before the server, etcd last: none waits for one that is gone
        for name in ("kwok", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
            if name in self._running:
                processes.stop([self._running.pop(name)], wait_s=5.0)


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _node(name: str, resources: Mapping[str, str]) -> dict[str, Any]:
    holds = {"cpu": "64", "memory": "256Gi", "pods": "2000", **resources}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"capacity": holds, "allocatable": holds},
    }


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
