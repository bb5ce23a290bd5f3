"""The plane that the other tests stand on: it schedules, runs, and keeps what it was told."""

from __future__ import annotations

import base64
import json

from tests.cluster.control_plane import ControlPlane

LABELS = {"app": "pause"}
CONTAINER = {
    "name": "pause",
    "image": "pause",
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
}


def deployment(namespace: str, replicas: int) -> dict[str, object]:
    template = {"metadata": {"labels": LABELS}, "spec": {"containers": [CONTAINER]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "pause", "namespace": namespace},
        "spec": {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": template},
    }


def test_a_deployment_becomes_available_on_the_nodes(plane: ControlPlane, namespace: str) -> None:
    plane.apply(deployment(namespace, 3))
    plane.kubectl("rollout", "status", "deployment/pause", "-n", namespace, "--timeout=60s")
    pods = plane.get("pods", "-n", namespace)["items"]
    assert [pod["status"]["phase"] for pod in pods] == ["Running"] * 3
    assert all(pod["spec"]["nodeName"].startswith("node-") for pod in pods)


def test_a_pods_token_names_its_pod(plane: ControlPlane, namespace: str) -> None:
    plane.apply(deployment(namespace, 1))
    plane.kubectl("rollout", "status", "deployment/pause", "-n", namespace, "--timeout=60s")
    pod = plane.get("pods", "-n", namespace)["items"][0]["metadata"]["name"]
    _, claims, _ = plane.pod_token(namespace, "default", pod).split(".")
    claimed = json.loads(base64.urlsafe_b64decode(claims + "=="))
    assert claimed["kubernetes.io"]["pod"]["name"] == pod


def test_the_api_server_returns_with_its_data(plane: ControlPlane, namespace: str) -> None:
    plane.apply(deployment(namespace, 1))
    plane.stop_api_server()
    try:
        away = plane.kubectl("get", "nodes", check=False)
        assert "refused" in away.stderr
    finally:
        plane.start_api_server()
    assert plane.get("deployment/pause", "-n", namespace)["spec"]["replicas"] == 1
    plane.kubectl("scale", "deployment/pause", "-n", namespace, "--replicas=2")
    plane.kubectl("rollout", "status", "deployment/pause", "-n", namespace, "--timeout=60s")


def test_the_server_says_the_version_that_is_pinned(plane: ControlPlane) -> None:
    server = json.loads(plane.kubectl("version", "-o", "json").stdout)["serverVersion"]
    assert server["gitVersion"] != "v0.0.0"


def test_the_administrators_file_is_private(plane: ControlPlane) -> None:
    assert plane.kubeconfig.stat().st_mode & 0o777 == 0o600
