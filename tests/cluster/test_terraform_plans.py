"""The plan check on plans that are made now, by Terraform and the real provider.

With MODELSWITCH_RECORD_PLANS=1 they are recorded for the unit tests, which need neither.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from modelswitch.fleet.terraform_plan import objections
from tests import plans, terraform
from tests.cluster.control_plane import ControlPlane
from tests.plans import CASES, CONFIG_MAP, NEW, OLD, OLDER, Case

# Long, and every `make test` asks the same of the recorded ones.
pytestmark = [terraform.installed, pytest.mark.cluster_wide]
KEPT = (
    *("format_version", "terraform_version", "resource_drift", "resource_changes"),
    *("output_changes", "applyable", "complete", "errored"),
)


@pytest.fixture
def root(
    tmp_path: Path, plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """examples/cluster with its state in a file, for a namespace of its own."""
    monkeypatch.setenv("KUBE_CONFIG_PATH", str(plane.kubeconfig))
    monkeypatch.setenv("TF_VAR_namespace", namespace)
    folder = terraform.copy(tmp_path) / "examples" / "cluster"
    (folder / "state_override.tf").write_text('terraform {\n  backend "local" {}\n}\n')
    terraform.init(folder)
    return folder


@pytest.fixture
def standing(root: Path) -> Path:
    """Where OLD has been applied."""
    publish(root, OLD)
    return root


@pytest.fixture
def restarting(
    root: Path, plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Where OLD has been applied with strategy `restart`."""
    plane.apply(terraform.workload(namespace, "torchserve-classifier"))
    monkeypatch.setenv("TF_VAR_pools", '{"classifier": "torchserve-classifier"}')
    monkeypatch.setenv("TF_VAR_strategy", "restart")
    publish(root, OLD)
    return root


def publish(root: Path, pins: Any) -> None:
    (root / "pins.json").write_text(pins.text, encoding="utf-8")
    terraform.run(root, "apply", "-auto-approve")


def check(root: Path, name: str, *words: str, pins: Any = NEW) -> None:
    """Plan `pins`, and compare what speaks against it with what is expected of the case."""
    case = next(c for c in CASES if c.name == name)
    (root / "pins.json").write_text(pins.text, encoding="utf-8")
    file = root / "plan"
    terraform.run(root, "plan", f"-out={file}", *words)
    namespace = os.environ["TF_VAR_namespace"]  # noqa: SIM112 (Terraform's own)
    kept = json.dumps({k: v for k, v in terraform.show(root, file).items() if k in KEPT})
    found = json.loads(kept.replace(namespace, plans.NAMESPACE))
    if os.environ.get("MODELSWITCH_RECORD_PLANS"):
        for change in (*found.get("resource_changes", ()), *found.get("resource_drift", ())):
            change.pop("provider_name", None)  # an address that nobody asks for
        text = json.dumps(found, indent=1, sort_keys=True) + "\n"
        (plans.RECORDED / f"{name}.json").write_text(text, encoding="utf-8")
    assert set(against(found, case)) == {*case.always, *case.beside}
    assert set(against(found, case, anything=True)) == set(case.always)


def against(found: dict[str, Any], case: Case, *, anything: bool = False) -> list[str]:
    return objections(
        found,
        text=case.pins.text,
        namespace=plans.NAMESPACE,
        config_map=CONFIG_MAP,
        standing=None,
        anything=anything,
    )


def without_the_modules_own_check(root: Path) -> None:
    main = root.parents[1] / "modules" / "serving" / "main.tf"
    text = main.read_text(encoding="utf-8")
    condition = "module.pins.generation >= local.standing"
    assert condition in text
    main.write_text(text.replace(condition, f"{condition} || true"), encoding="utf-8")


def test_a_change_of_pins_only(standing: Path) -> None:
    check(standing, "pins_only")


def test_a_change_of_pins_that_rolls_pods(restarting: Path) -> None:
    check(restarting, "restart")


def test_nothing_to_do(standing: Path) -> None:
    check(standing, "no_op", pins=OLD)


def test_outputs_only(standing: Path) -> None:
    (standing / "more.tf").write_text('output "more" {\n  value = "more"\n}\n')
    check(standing, "outputs_only", pins=OLD)


def test_what_was_edited_by_hand_is_put_right(
    standing: Path, plane: ControlPlane, namespace: str
) -> None:
    edit = json.dumps({"data": {"pins.json": "rubbish"}})
    plane.kubectl("patch", "configmap", CONFIG_MAP, f"--namespace={namespace}", f"--patch={edit}")
    plane.kubectl("annotate", "configmap", CONFIG_MAP, f"--namespace={namespace}", "by=hand")
    check(standing, "edited_by_hand")


def test_the_first_one(root: Path) -> None:
    check(root, "first")


def test_a_config_map_that_is_gone(standing: Path, plane: ControlPlane, namespace: str) -> None:
    plane.kubectl("delete", "configmap", CONFIG_MAP, f"--namespace={namespace}")
    check(standing, "gone")


def test_an_added_resource(standing: Path) -> None:
    (standing / "more.tf").write_text(
        'resource "kubernetes_secret_v1" "more" {\n  metadata {\n    name = "more"\n  }\n}\n'
    )
    check(standing, "adds")


def test_a_replaced_config_map(standing: Path) -> None:
    check(standing, "replaces", f"-replace={plans.PINS}")


def test_changed_labels(standing: Path) -> None:
    check(standing, "labels", '-var=labels={"team":"vision"}')


def test_another_annotation_of_the_pods(restarting: Path) -> None:
    main = restarting.parents[1] / "modules" / "serving" / "main.tf"
    text = main.read_text(encoding="utf-8")
    place = "  template_annotations = {\n"
    assert place in text
    main.write_text(text.replace(place, f'{place}    who = "me"\n'), encoding="utf-8")
    check(restarting, "restarts_another")


def test_a_deleted_config_map(standing: Path) -> None:
    main = (standing / "main.tf").read_text(encoding="utf-8")
    (standing / "main.tf").write_text(main.partition('module "serving"')[0], encoding="utf-8")
    (standing / "outputs.tf").unlink()
    check(standing, "deletes")


def test_a_config_map_that_goes_elsewhere(standing: Path) -> None:
    check(standing, "moves_away", "-var=namespace=elsewhere")


def test_an_older_generation(standing: Path) -> None:
    without_the_modules_own_check(standing)
    check(standing, "older", pins=OLDER)


def test_other_pins_than_ours(standing: Path) -> None:
    check(standing, "other_text", pins=NEW)


def test_every_case_is_planned_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [case.name for case in CASES if f'"{case.name}"' not in source] == []
