"""The production overlay on a cluster: the pools of the list, held by who owns what."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.control_plane import ControlPlane
from tests.cluster.manifests import K8S, Manifest, copied_overlay
from tests.site import wait_for

POOLS = tomllib.loads((K8S / "overlays" / "production" / "pools.toml").read_text())
NAMESPACE = "test-rollout"
POOL, GPU = "modelswitch.dev/pool", "nvidia.com/gpu"


@pytest.fixture(scope="module")
def overlay(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The overlay, applied beside a node with GPUs that wants no other pods, and rolled out."""
    node = plane.add_nodes(1, **{GPU: "8"})[0]
    plane.kubectl("taint", "node", node, f"{GPU}=present:NoSchedule")
    copied = copied_overlay(tmp_path_factory.mktemp("overlay"), "production", NAMESPACE)
    plane.kubectl("apply", "-k", str(copied))
    wait_for(lambda: {name: ready(plane, name) for name in POOLS} == wanted(), timeout_s=60)
    yield copied
    plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def wanted() -> dict[str, int]:
    return {name: pool["replicas"] for name, pool in POOLS.items()}


def deployment(plane: ControlPlane, pool: str) -> Manifest:
    found: Manifest = plane.get(f"deployment/torchserve-{pool}", "-n", NAMESPACE)
    return found


def ready(plane: ControlPlane, pool: str) -> int:
    return int(deployment(plane, pool)["status"].get("readyReplicas", 0))


def pods(plane: ControlPlane, pool: str) -> list[Manifest]:
    found: list[Manifest] = plane.get("pods", "-n", NAMESPACE, "-l", f"{POOL}={pool}")["items"]
    return found


def test_each_pool_has_the_replicas_of_the_list(plane: ControlPlane, overlay: Path) -> None:
    # The autoscaler holds them, without any metric: the Deployments name no number
    assert {name: len(pods(plane, name)) for name in POOLS} == wanted()
    assert len(POOLS) >= 2


def test_each_pod_has_the_gpus_of_the_list(plane: ControlPlane, overlay: Path) -> None:
    for name, pool in POOLS.items():
        for pod in pods(plane, name):
            limits = pod["spec"]["containers"][0]["resources"]["limits"]
            node = plane.get(f"node/{pod['spec']['nodeName']}")
            assert int(limits.get(GPU, 0)) == pool["gpus"]
            assert (GPU in node["status"]["capacity"]) == (pool["gpus"] > 0)


def test_a_pool_is_spread_over_the_nodes(plane: ControlPlane, overlay: Path) -> None:
    assert len({pod["spec"]["nodeName"] for pod in pods(plane, "features")}) >= 2


def test_each_pools_service_finds_its_pods_alone(plane: ControlPlane, overlay: Path) -> None:
    for name in POOLS:
        select = f"kubernetes.io/service-name=torchserve-{name}"
        slices = plane.get("endpointslices", "-n", NAMESPACE, "-l", select)["items"]
        found = {e["targetRef"]["name"] for s in slices for e in s["endpoints"]}
        assert found == {pod["metadata"]["name"] for pod in pods(plane, name)}


def test_applying_again_takes_nothing_from_the_other_writers(
    plane: ControlPlane, overlay: Path
) -> None:
    pool, annotation = "classifier", "modelswitch.dev/defaults-sha256"
    more = POOLS[pool]["replicas"] + 1
    name = f"deployment/torchserve-{pool}"
    plane.kubectl("scale", name, "-n", NAMESPACE, f"--replicas={more}")
    # As Terraform's `restart` does it
    annotated = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"torchserve-{pool}", "namespace": NAMESPACE},
        "spec": {"template": {"metadata": {"annotations": {annotation: "ab"}}}},
    }
    plane.kubectl(
        *("apply", "--server-side", "--field-manager=modelswitch-terraform", "-f", "-"),
        input=yaml.safe_dump(annotated),
    )
    said = plane.kubectl("apply", "-k", str(overlay)).stdout
    assert f"deployment.apps/torchserve-{pool} unchanged" in said
    spec = deployment(plane, pool)["spec"]
    assert spec["replicas"] == more
    assert spec["template"]["metadata"]["annotations"][annotation] == "ab"


def test_one_pod_at_a_time_may_be_evicted(plane: ControlPlane, overlay: Path) -> None:
    pool = "features"
    names = [pod["metadata"]["name"] for pod in pods(plane, pool)]

    def evict(pod: str) -> str:
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": NAMESPACE},
        }
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
        done = plane.kubectl(
            *("create", "--raw", path, "-f", "-"), input=json.dumps(eviction), check=False
        )
        return done.stderr

    wait_for(
        lambda: (
            plane.get(f"pdb/torchserve-{pool}", "-n", NAMESPACE)["status"]["disruptionsAllowed"]
            == 1
        )
    )
    # None takes its place while this lasts
    nodes = [node["metadata"]["name"] for node in plane.get("nodes")["items"]]
    plane.kubectl("cordon", *nodes)
    try:
        assert evict(names[0]) == ""
        assert "disruption budget" in evict(names[1])
    finally:
        plane.kubectl("uncordon", *nodes)
