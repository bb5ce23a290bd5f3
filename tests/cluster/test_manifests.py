"""Every manifest is taken by an API server that enforces Pod Security, and says what it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from modelswitch.settings import load, pins_name
from tests.cluster.control_plane import ControlPlane
from tests.cluster.manifests import (
    K8S,
    Manifest,
    built,
    container,
    copied_overlay,
    of_kind,
    pod_spec,
)

OVERLAYS = ("dev", "production")
# What each way to an archive store asks of settings.env, and what becomes of it
IDENTITIES = {
    "identity-s3": ("AWS_ROLE_ARN", "arn:aws:iam::1:role/x", "eks.amazonaws.com/role-arn"),
    "identity-gcs": ("GOOGLE_SERVICE_ACCOUNT", "a@b.example", "iam.gke.io/gcp-service-account"),
    "identity-azure": ("AZURE_CLIENT_ID", "0-1-2", "azure.workload.identity/client-id"),
}
SERVICE_MONITOR_CRD = Path(__file__).with_name("servicemonitor-crd.yaml")


def dry_run(plane: ControlPlane, overlay: Path) -> str:
    """What a server says of it, in a namespace as the overlay makes it; "" when it takes it."""
    manifests = built(plane, overlay)
    plane.apply(*of_kind(manifests, "Namespace"))
    done = plane.kubectl(
        *("apply", "--dry-run=server", "--warnings-as-errors", "-f", "-"),
        input=yaml.safe_dump_all(manifests),
        check=False,
    )
    assert (done.returncode == 0) == (done.stderr == ""), done
    return done.stderr


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_taken_without_a_warning(
    plane: ControlPlane, namespace: str, tmp_path: Path, name: str
) -> None:
    overlay = copied_overlay(tmp_path, name, namespace)
    labels = of_kind(built(plane, overlay), "Namespace")[0]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert dry_run(plane, overlay) == ""


@pytest.mark.parametrize("component", IDENTITIES)
def test_an_identity_is_the_agents_and_taken_without_a_warning(
    plane: ControlPlane, namespace: str, tmp_path: Path, component: str
) -> None:
    key, value, annotation = IDENTITIES[component]
    overlay = copied_overlay(
        tmp_path, "dev", namespace, components=[component], settings={key: value}
    )
    account = of_kind(built(plane, overlay), "ServiceAccount")[0]
    assert account["metadata"]["annotations"] == {annotation: value}
    assert dry_run(plane, overlay) == ""


@pytest.mark.parametrize("component", IDENTITIES)
def test_an_identity_without_its_setting_is_not_built(
    plane: ControlPlane, tmp_path: Path, component: str
) -> None:
    overlay = copied_overlay(tmp_path, "dev", "any", components=[component])
    with pytest.raises(AssertionError, match=rf"data.{IDENTITIES[component][0]}.* is missing"):
        built(plane, overlay)


def test_a_service_monitor_is_taken_where_its_kind_is_known(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    plane.kubectl("apply", "-f", str(SERVICE_MONITOR_CRD))
    plane.kubectl("wait", "--for=condition=Established", "-f", str(SERVICE_MONITOR_CRD))
    overlay = copied_overlay(tmp_path, "dev", namespace, components=["servicemonitor"])
    manifests = built(plane, overlay)
    assert dry_run(plane, overlay) == ""

    monitor, service = of_kind(manifests, "ServiceMonitor")[0], of_kind(manifests, "Service")[1]
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    ports = {port["name"]: port["targetPort"] for port in service["spec"]["ports"]}
    assert {e["port"] for e in monitor["spec"]["endpoints"]} == set(ports) == set(ports.values())


def test_a_laxer_container_is_not_taken(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    path = "/spec/template/spec/containers/0/securityContext/allowPrivilegeEscalation"
    laxer = yaml.safe_dump([{"op": "remove", "path": path}])
    patches = [{"target": {"kind": "Deployment"}, "patch": laxer}]
    overlay = copied_overlay(tmp_path, "dev", namespace, patches=patches)
    assert 'would violate PodSecurity "restricted' in dry_run(plane, overlay)


@pytest.fixture(scope="module", params=OVERLAYS)
def shipped(plane: ControlPlane, request: pytest.FixtureRequest) -> list[Manifest]:
    """An overlay as it is in the repository."""
    return built(plane, K8S / "overlays" / request.param)


@pytest.fixture
def deployments(shipped: list[Manifest]) -> list[Manifest]:
    return of_kind(shipped, "Deployment")


def test_what_others_write_is_left_out(deployments: list[Manifest]) -> None:
    for deployment in deployments:
        assert "replicas" not in deployment["spec"]
        annotations = deployment["spec"]["template"]["metadata"].get("annotations", {})
        assert not [key for key in annotations if "modelswitch" in key]


def test_images_are_named_by_digest(deployments: list[Manifest]) -> None:
    for deployment in deployments:
        for name in ("agent", "torchserve"):
            assert "@sha256:" in container(deployment, name)["image"]


def test_only_the_agent_has_a_token_and_the_pins(deployments: list[Manifest]) -> None:
    for deployment in deployments:
        assert pod_spec(deployment)["automountServiceAccountToken"] is False
        assert {"token", "pins"} <= mounts(deployment, "agent").keys()
        assert not {"token", "pins"} & mounts(deployment, "torchserve").keys()


def test_the_pins_are_mounted_as_a_folder_that_may_come_later(shipped: list[Manifest]) -> None:
    for deployment in of_kind(shipped, "Deployment"):
        label = deployment["metadata"]["labels"]["modelswitch.dev/deployment"]
        volumes = {volume["name"]: volume for volume in pod_spec(deployment)["volumes"]}
        assert volumes["pins"]["configMap"] == {"name": pins_name(label), "optional": True}
        assert "subPath" not in mounts(deployment, "agent")["pins"]
    for role in of_kind(shipped, "Role"):
        assert role["rules"][0]["resourceNames"] == [pins_name(label)]


def test_the_agent_begins_before_torchserve_and_ends_after_it(deployments: list[Manifest]) -> None:
    for deployment in deployments:
        assert container(deployment, "agent") in pod_spec(deployment)["initContainers"]
        assert container(deployment, "agent")["restartPolicy"] == "Always"
        # A startup probe would hold TorchServe back until the agent, which waits for it, is ready
        assert "startupProbe" not in container(deployment, "agent")


def test_a_request_may_end_before_torchserve_does(deployments: list[Manifest]) -> None:
    response_timeout_s = 30  # a recipe's, unless it says otherwise
    for deployment in deployments:
        slept = container(deployment, "torchserve")["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert response_timeout_s < slept < pod_spec(deployment)["terminationGracePeriodSeconds"]


def test_writable_folders_are_volumes_with_a_size(deployments: list[Manifest]) -> None:
    for deployment in deployments:
        sizes = [v["emptyDir"] for v in pod_spec(deployment)["volumes"] if "emptyDir" in v]
        assert sizes
        assert all("sizeLimit" in size for size in sizes)
        for name in ("agent", "torchserve"):
            assert container(deployment, name)["securityContext"]["readOnlyRootFilesystem"]


def test_nobody_is_let_in_to_the_management_ports(shipped: list[Manifest]) -> None:
    open_ports = {
        port["name"]: port["containerPort"]
        for deployment in of_kind(shipped, "Deployment")
        for name in ("agent", "torchserve")
        for port in container(deployment, name)["ports"]
    }
    rules = of_kind(shipped, "NetworkPolicy")[0]["spec"]["ingress"]
    let_in = [[open_ports[port["port"]] for port in rule["ports"]] for rule in rules]
    assert let_in == [[8080], [8082, 8083]]
    assert all(rule["from"] for rule in rules)  # none is open to everybody


def test_the_network_policy_and_the_budgets_hold_for_the_pods(shipped: list[Manifest]) -> None:
    for deployment in of_kind(shipped, "Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        policy = of_kind(shipped, "NetworkPolicy")[0]["spec"]["podSelector"]["matchLabels"]
        assert policy.items() <= labels.items()
        name = deployment["metadata"]["name"]
        budget = next(
            b for b in of_kind(shipped, "PodDisruptionBudget") if b["metadata"]["name"] == name
        )
        assert budget["spec"]["selector"] == deployment["spec"]["selector"]


def test_the_agents_environment_is_what_its_settings_take(
    shipped: list[Manifest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for deployment in of_kind(shipped, "Deployment"):
        fields = {
            "metadata.name": "torchserve-0",
            "metadata.namespace": "models",
            **{
                f"metadata.labels['{key}']": value
                for key, value in deployment["spec"]["template"]["metadata"]["labels"].items()
            },
        }
        settings = of_kind(shipped, "ConfigMap")[0]["data"]
        for key, value in {**settings, **environment(deployment, "agent", fields)}.items():
            monkeypatch.setenv(key, value)
        read = load(start=tmp_path)
        labels = deployment["metadata"]["labels"]
        assert read.deployment == labels["modelswitch.dev/deployment"]
        assert read.server.pool == labels["modelswitch.dev/pool"]
        assert (read.server.name, read.fleet.namespace) == ("torchserve-0", "models")
        assert read.fleet.kind == "kubernetes"
        assert read.store.startswith("s3://")
        ports = {p["name"]: p["containerPort"] for p in container(deployment, "agent")["ports"]}
        assert read.server.health_port == ports["health"]
        mounted = [Path(mount["mountPath"]) for mount in mounts(deployment, "agent").values()]
        kept = [read.fleet.mount, read.server.model_store, read.server.log_dir, read.state_dir]
        assert all(folder in mounted for folder in kept)


def mounts(deployment: Manifest, name: str) -> dict[str, Manifest]:
    return {mount["name"]: mount for mount in container(deployment, name)["volumeMounts"]}


def environment(deployment: Manifest, name: str, fields: dict[str, str]) -> dict[str, Any]:
    """A container's variables, those of the downward API as a pod with these `fields` has them."""
    return {
        variable["name"]: variable.get("value")
        or fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        for variable in container(deployment, name)["env"]
    }
