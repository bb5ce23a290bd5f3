"""examples/cluster with the real provider and the real state backend, on the control plane."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from modelswitch.errors import FleetUnreachable, PlanRefused, TerraformFailed
from modelswitch.fleet import terraform as room
from modelswitch.fleet.terraform import Terraform
from modelswitch.pins import Pins
from tests import terraform
from tests.cluster.control_plane import ControlPlane
from tests.plans import CONFIG_MAP, NEW, OLD, OLDER

pytestmark = terraform.installed
AGENT = "modelswitch-agent"
DOCUMENT = terraform.TREE.parent / "docs" / "terraform.md"


@pytest.fixture
def root(
    tmp_path: Path, plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """As its README says, but that the state stands in the same namespace."""
    monkeypatch.setenv("KUBE_CONFIG_PATH", str(plane.kubeconfig))
    monkeypatch.setenv("TF_VAR_namespace", namespace)
    monkeypatch.setenv("TF_CLI_ARGS_init", f"-backend-config=namespace={namespace}")
    folder = terraform.copy(tmp_path) / "examples" / "cluster"
    terraform.init(folder)
    return folder


def publish(
    root: Path,
    namespace: str,
    pins: Pins,
    standing: Pins | None,
    *,
    anything: bool = False,
) -> None:
    (root / "pins.json").write_text(pins.text, encoding="utf-8")
    Terraform(root, namespace=namespace, config_map=CONFIG_MAP).apply(
        pins, standing, anything=anything
    )


def held(plane: ControlPlane, namespace: str) -> str:
    found: str = plane.get("configmap", CONFIG_MAP, "-n", namespace)["data"]["pins.json"]
    return found


def may(plane: ControlPlane, namespace: str, *words: str) -> bool:
    who = f"--as=system:serviceaccount:{namespace}:{AGENT}"
    asked = plane.kubectl("auth", "can-i", *words, who, "-n", namespace, check=False)
    return asked.stdout.strip() == "yes"


def test_pins_are_published_and_nothing_else_is_touched(
    root: Path, plane: ControlPlane, namespace: str
) -> None:
    with pytest.raises(PlanRefused, match=f"it creates .* the ConfigMap {namespace}/{CONFIG_MAP}"):
        publish(root, namespace, OLD, None)
    publish(root, namespace, OLD, None, anything=True)
    assert held(plane, namespace) == OLD.text

    # What ModelSwitch or others note there is not Terraform's to take away.
    plane.kubectl("annotate", "configmap", CONFIG_MAP, "-n", namespace, "by=somebody")
    publish(root, namespace, NEW, OLD)
    assert held(plane, namespace) == NEW.text
    metadata = plane.get("configmap", CONFIG_MAP, "-n", namespace)["metadata"]
    assert metadata["annotations"]["by"] == "somebody"
    assert metadata["labels"]["modelswitch.dev/deployment"] == "production"

    # A break-glass rollback, by server-side apply: the next publishing goes over it.
    labels = {
        "app.kubernetes.io/part-of": "modelswitch",
        "modelswitch.dev/deployment": "production",
    }
    in_need = OLD.model_copy(update={"generation": 6, "epoch": "break-glass-1"})
    patch = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": namespace, "labels": labels},
        "data": {"pins.json": in_need.text},
    }
    words = ("--server-side", "--force-conflicts", "--field-manager=modelswitch")
    plane.kubectl("apply", *words, "-f", "-", input=json.dumps(patch))
    recorded = NEW.model_copy(update={"generation": 7})
    publish(root, namespace, recorded, in_need)
    assert held(plane, namespace) == recorded.text

    # A checkout that is behind: the module itself says so, to whoever applies by hand, too.
    with pytest.raises(TerraformFailed, match="this checkout is behind"):
        publish(root, namespace, OLDER, recorded)
    by_hand = terraform.run(root, "apply", "-auto-approve", check=False)
    assert by_hand.returncode == 1
    assert held(plane, namespace) == recorded.text

    # State and lock are where the README says.
    secrets = plane.kubectl("get", "secrets,leases", "-n", namespace, "-o", "name").stdout
    assert "secret/tfstate-default-modelswitch" in secrets
    assert "lease.coordination.k8s.io/lock-tfstate-default-modelswitch" in secrets


def test_what_an_agent_may_and_what_not(root: Path, plane: ControlPlane, namespace: str) -> None:
    terraform.run(root, "apply", "-auto-approve")
    pins = f"configmap/{CONFIG_MAP}"
    allowed = [
        *(("get", pins), ("list", pins), ("watch", pins)),
        ("patch", "pods", "--subresource=status"),
    ]
    forbidden = [
        *(("update", pins), ("patch", pins), ("delete", pins), ("create", "configmaps")),
        *(("get", "configmap/other"), ("list", "configmaps"), ("watch", "configmaps")),
        *(("get", "secrets"), ("list", "secrets"), ("get", "pods"), ("list", "pods")),
        *(("patch", "pods"), ("update", "pods", "--subresource=status"), ("create", "pods")),
        *(("get", "secret/tfstate-default-modelswitch"), ("create", "pods/exec")),
        *(("get", "deployments.apps"), ("patch", "deployments.apps"), ("get", "leases")),
        *(("create", "serviceaccounts/token"), ("escalate", "roles"), ("bind", "roles")),
    ]
    assert [words for words in allowed if not may(plane, namespace, *words)] == []
    assert [words for words in forbidden if may(plane, namespace, *words)] == []


@pytest.mark.cluster_wide
def test_a_publisher_needs_no_more_than_its_file_says(
    root: Path,
    plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The state in a namespace of its own, as the README says.
    text = (root / "publisher.yaml").read_text(encoding="utf-8")
    state = f"{namespace}-state"
    text = re.sub(r"(name|namespace): modelswitch$", rf"\1: {namespace}", text, flags=re.M)
    text = re.sub(r"(name|namespace): modelswitch-state", rf"\1: {state}", text)
    plane.kubectl("apply", "-f", "-", input=text)
    terraform.init(root, "-reconfigure", f"-backend-config=namespace={state}")
    publish(root, namespace, OLD, None, anything=True)

    token = tmp_path / "token"
    token.write_text(
        plane.kubectl("create", "token", "modelswitch-publisher", "-n", state).stdout.strip()
    )
    monkeypatch.setenv("KUBE_CONFIG_PATH", str(plane.kubeconfig_for(token)))
    publish(root, namespace, NEW, OLD)
    assert held(plane, namespace) == NEW.text

    monkeypatch.setenv("TF_VAR_labels", '{"team": "vision"}')
    with pytest.raises(TerraformFailed, match="forbidden"):
        publish(root, namespace, NEW, NEW, anything=True)
    plane.kubectl("delete", "namespace", state, "--wait=false")


@pytest.mark.cluster_wide
def test_a_lost_state_is_taken_back_as_the_documents_say(
    root: Path, plane: ControlPlane, namespace: str
) -> None:
    publish(root, namespace, OLD, None, anything=True)
    plane.kubectl("delete", "secret", "tfstate-default-modelswitch", "-n", namespace)

    text = DOCUMENT.read_text(encoding="utf-8").partition("### The state is lost")[2]
    imports = re.findall(r"^terraform import (\S+) (\S+)$", text, flags=re.M)
    assert len(imports) == 3
    for address, where in imports:
        _, name = where.split("/")
        terraform.run(root, "import", address, f"{namespace}/{name}")
    terraform.run(root, "plan", "-detailed-exitcode")

    publish(root, namespace, NEW, OLD)
    assert held(plane, namespace) == NEW.text


@pytest.mark.cluster_wide
def test_a_deleted_config_map_is_made_again(
    root: Path, plane: ControlPlane, namespace: str
) -> None:
    publish(root, namespace, OLD, None, anything=True)
    plane.kubectl("delete", "configmap", CONFIG_MAP, "-n", namespace)
    with pytest.raises(PlanRefused, match="it creates"):
        publish(root, namespace, NEW, None)
    terraform.run(root, "apply", "-auto-approve")
    assert held(plane, namespace) == NEW.text


@pytest.mark.cluster_wide
def test_regions_go_one_by_one(
    tmp_path: Path, plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two namespaces stand for two clusters."""
    other = f"{namespace}-us"
    plane.kubectl("create", "namespace", other)
    monkeypatch.setenv("KUBE_CONFIG_PATH", str(plane.kubeconfig))
    regions = {"eu": {"namespace": namespace}, "us": {"namespace": other}}
    monkeypatch.setenv("TF_VAR_regions", json.dumps(regions))
    root = terraform.copy(tmp_path) / "examples" / "regions"
    (root / "state_override.tf").write_text('terraform {\n  backend "local" {}\n}\n')
    terraform.init(root)

    def applied(pins: Pins, *live: str) -> list[str]:
        (root / "pins.json").write_text(pins.text, encoding="utf-8")
        terraform.run(root, "apply", "-auto-approve", f"-var=regions_live={json.dumps(live)}")
        return [held(plane, namespace), held(plane, other)]

    # What holds nothing yet has nothing to keep.
    assert applied(OLD, "eu") == [OLD.text, OLD.text]
    assert applied(NEW, "eu") == [NEW.text, OLD.text]
    assert applied(NEW, "eu", "us") == [NEW.text, NEW.text]
    plane.kubectl("delete", "namespace", other, "--wait=false")


def test_a_state_that_somebody_has_locked(
    root: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_LOCK_S", 1)
    terraform.run(root, "apply", "-auto-approve")
    (root / "blocks.tf").write_text(
        'resource "terraform_data" "blocks" {\n  provisioner "local-exec" {\n'
        '    command = "touch begun && read line < pipe"\n  }\n}\n'
    )
    subprocess.run(["mkfifo", str(root / "pipe")], check=True)
    other = subprocess.Popen(
        ["terraform", "apply", "-auto-approve"],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    terraform.wait_for((root / "begun").exists)
    with pytest.raises(FleetUnreachable, match="somebody else holds the lock"):
        publish(root, namespace, OLD, None)
    (root / "pipe").write_text("go on\n")
    assert other.wait(60) == 0


def test_an_api_server_that_is_away(root: Path, plane: ControlPlane, namespace: str) -> None:
    terraform.run(root, "apply", "-auto-approve")
    plane.stop_api_server()
    try:
        with pytest.raises(FleetUnreachable, match="does not answer"):
            publish(root, namespace, OLD, None)
    finally:
        plane.start_api_server()
    publish(root, namespace, OLD, None)
    assert json.loads(held(plane, namespace))["generation"] == 4


@pytest.mark.cluster_wide
def test_restart_rolls_the_pods_of_the_pool_whose_default_changes(
    root: Path, plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pool in ("classifier", "features"):
        plane.apply(terraform.workload(namespace, f"torchserve-{pool}"))
    monkeypatch.setenv("TF_VAR_strategy", "restart")
    publish(root, namespace, OLD, None, anything=True)
    before = generations(plane, namespace)

    # A default that stays: another generation rolls nothing.
    same = OLD.model_copy(update={"generation": 5})
    publish(root, namespace, same, OLD)
    assert generations(plane, namespace) == before

    publish(root, namespace, NEW.model_copy(update={"generation": 6}), same)
    after = generations(plane, namespace)
    assert after["torchserve-classifier"] == before["torchserve-classifier"] + 1
    assert after["torchserve-features"] == before["torchserve-features"]


def generations(plane: ControlPlane, namespace: str) -> dict[str, int]:
    found = plane.get("deployments", "-n", namespace)["items"]
    return {d["metadata"]["name"]: d["metadata"]["generation"] for d in found}
