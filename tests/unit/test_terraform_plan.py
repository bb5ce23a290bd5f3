"""The plan check, on plans that Terraform and the real provider made.

tests/cluster/test_terraform_plans.py makes them anew and records them.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from modelswitch.errors import PinsTooNew
from modelswitch.fleet.terraform_plan import objections
from tests.plans import CASES, CONFIG_MAP, NAMESPACE, NEW, OLD, PINS, RECORDED, Case


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    return found


def against(plan: dict[str, Any], **asked: Any) -> list[str]:
    usual = {
        "text": NEW.text,
        "namespace": NAMESPACE,
        "config_map": CONFIG_MAP,
        "standing": OLD,
        "anything": False,
    }
    return objections(plan, **{**usual, **asked})


def pins_change(plan: dict[str, Any]) -> Any:
    return next(r["change"] for r in plan["resource_changes"] if r["address"] == PINS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_speaks_against_a_plan(case: Case) -> None:
    found = against(recorded(case.name), text=case.pins.text, standing=None)
    assert set(found) == {*case.always, *case.beside}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_no_flag_allows(case: Case) -> None:
    found = against(recorded(case.name), text=case.pins.text, standing=None, anything=True)
    assert set(found) == set(case.always)


def test_what_the_cluster_holds_is_newer_than_what_terraform_read() -> None:
    newer = OLD.model_copy(update={"generation": 6})
    said = ["generation 6 stands, and it would go back to 5"]
    assert against(recorded("pins_only"), standing=newer) == said
    assert against(recorded("pins_only"), standing=newer, anything=True) == said


def test_the_config_map_of_other_pins() -> None:
    said = "no ConfigMap elsewhere/other is among its resources: it belongs to other pins"
    [first, *_] = against(recorded("pins_only"), namespace="elsewhere", config_map="other")
    assert first.startswith(said)


def in_two_regions(name: str) -> tuple[dict[str, Any], Any]:
    """The plan, and the change of the second region's ConfigMap of the same name."""
    plan = recorded(name)
    second = copy.deepcopy(next(r for r in plan["resource_changes"] if r["address"] == PINS))
    second["address"] = second["address"].replace("serving", "us")
    plan["resource_changes"].append(second)
    return plan, second["change"]


def test_each_region_holds_the_pins() -> None:
    plan, _ = in_two_regions("pins_only")
    assert against(plan) == []


def test_a_region_that_is_left_out_is_named() -> None:
    plan, second = in_two_regions("pins_only")
    second["after"]["data"] = second["before"]["data"]
    [said] = against(plan, anything=True)
    assert said.startswith("module.us.kubernetes_config_map_v1.pins would hold other pins")


def test_a_text_that_is_known_after_apply_only() -> None:
    plan = recorded("pins_only")
    change = pins_change(plan)
    change["after"]["data"] = None
    change["after_unknown"] = {"data": True}
    assert against(plan, anything=True) == [f"it does not say what pins.json of {PINS} will hold"]


def test_an_attribute_that_is_known_after_apply_only() -> None:
    plan = recorded("pins_only")
    pins_change(plan)["after_unknown"] = {"metadata": [{"labels": {"team": True}}]}
    [said] = against(plan)
    assert said.startswith("it changes metadata.0.labels.team of ")


def test_another_key_of_the_config_map() -> None:
    plan = recorded("pins_only")
    pins_change(plan)["after"]["data"]["more.json"] = "{}"
    [said] = against(plan)
    assert said.startswith("it changes data.more.json of ")


def test_an_update_that_shows_no_difference() -> None:
    # Write-only attributes look so.
    plan = recorded("no_op")
    role = next(r for r in plan["resource_changes"] if r["type"] == "kubernetes_role_v1")
    role["change"]["actions"] = ["update"]
    assert against(plan, text=OLD.text) == [f"it changes something of {role['address']}"]


def test_a_resource_that_terraform_forgets() -> None:
    plan = recorded("no_op")
    pins_change(plan).update(actions=["forget"], after=None)
    [said] = against(plan, text=OLD.text, anything=True)
    assert said.startswith(f"it forgets {PINS}")


def test_reading_a_data_source_touches_nothing() -> None:
    plan = recorded("pins_only")
    change = {"actions": ["read"], "before": None, "after": {}, "after_unknown": {"data": True}}
    plan["resource_changes"].append(
        {
            "address": "module.serving.data.kubernetes_config_map_v1.standing",
            "mode": "data",
            "type": "kubernetes_config_map_v1",
            "change": change,
        }
    )
    assert against(plan) == []


def test_what_is_left_for_later_or_done_beside() -> None:
    plan = recorded("pins_only")
    plan["deferred_changes"] = [{"reason": "x", "resource_change": {"address": "a.b"}}]
    plan["action_invocations"] = [{"address": "action.c.d"}]
    assert against(plan) == ["it leaves a.b for a later plan", "it invokes the action action.c.d"]


def test_a_plan_that_failed_or_is_of_another_format() -> None:
    assert against({**recorded("pins_only"), "errored": True}) == ["planning it failed half-way"]
    [said] = against({"format_version": "2.0"}, anything=True)
    assert said.startswith("its format is '2.0'")


def test_pins_of_a_later_release_are_not_gone_over() -> None:
    plan = recorded("pins_only")
    before = pins_change(plan)["before"]["data"]
    before["pins.json"] = before["pins.json"].replace('"schema": 1', '"schema": 2')
    with pytest.raises(PinsTooNew):
        against(plan, anything=True)
