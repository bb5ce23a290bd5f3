"""Which pods must prove a switch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from lightkube.resources.apps_v1 import Deployment, ReplicaSet
from lightkube.resources.core_v1 import Pod
from lightkube.resources.policy_v1 import PodDisruptionBudget

from modelswitch.fleet import condition
from modelswitch.fleet.roster import Objects, reports
from modelswitch.pins import Pins
from modelswitch.reports import Report

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
PINS = Pins(schema=1, deployment="d", generation=3)
LABELS = {"modelswitch.dev/deployment": "d", "modelswitch.dev/pool": "default"}


def deployment(replicas: int = 3, *, generation: int = 1, observed: int = 1) -> Deployment:
    return Deployment.from_dict(
        {
            "metadata": {
                "name": "torchserve",
                "uid": "dep",
                "labels": LABELS,
                "generation": generation,
            },
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": LABELS},
                "template": {"metadata": {"labels": LABELS}},
            },
            "status": {"observedGeneration": observed},
        }
    )


def replica_set(uid: str = "rs", revision: int = 1) -> ReplicaSet:
    return ReplicaSet.from_dict(
        {
            "metadata": {
                "name": uid,
                "uid": uid,
                "annotations": {"deployment.kubernetes.io/revision": str(revision)},
                "ownerReferences": [owner("dep")],
            },
            "spec": {"selector": {}},
        }
    )


def owner(uid: str) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "X", "name": uid, "uid": uid, "controller": True}


def pod(
    name: str,
    *,
    of: str = "rs",
    reported: bool = True,
    ready: bool = True,
    ending: bool = False,
    heartbeat: datetime = NOW,
    agent: dict[str, Any] | None = None,
) -> Pod:
    conditions = [{"type": "Ready", "status": str(ready)}]
    if reported:
        report = Report(server=name, boot_id="b", at=NOW, heartbeat_at=heartbeat, generation=3)
        conditions.append(condition.render(report, PINS))
    metadata: dict[str, Any] = {"name": name, "ownerReferences": [owner(of)]}
    if ending:
        metadata["deletionTimestamp"] = "2026-05-01T12:00:00Z"
    status = {
        "phase": "Running",
        "conditions": conditions,
        "initContainerStatuses": [
            {
                "name": "agent",
                "image": "",
                "imageID": "",
                "ready": True,
                "restartCount": 0,
                "state": agent or {"running": {}},
            }
        ],
    }
    return Pod.from_dict({"metadata": metadata, "status": status})


def budget(**spec: Any) -> PodDisruptionBudget:
    selector = {"matchLabels": {"modelswitch.dev/pool": "default"}}
    return PodDisruptionBudget.from_dict({"spec": {"selector": selector, **spec}})


def roster(*pods: Pod, budgets: tuple[PodDisruptionBudget, ...] = (), **how: Any) -> dict[str, str]:
    """Each server and whether it lives, or why not."""
    objects = Objects(
        deployments=(deployment(**how),),
        replica_sets=(replica_set("old", 1), replica_set("rs", 2)),
        budgets=budgets,
        pods={p.metadata.name: p for p in pods},
    )
    return {
        r.server: r.why_silent if r.is_silent(NOW) else "lives" for r in reports(objects, PINS, NOW)
    }


def test_every_pod_of_the_current_replica_set_counts() -> None:
    pods = [pod("a"), pod("b"), pod("c"), pod("from-before", of="old"), pod("leaving", ending=True)]
    assert roster(*pods) == {"a": "lives", "b": "lives", "c": "lives"}


def test_a_missing_pod_is_a_server_that_is_down() -> None:
    found = roster(pod("a"), pod("b"))
    assert found["torchserve-missing"] == "2 of at least 3 pods have an agent that reports"


@pytest.mark.parametrize(
    "spec",
    [
        {"maxUnavailable": 1},
        {"maxUnavailable": "25%"},
        {"minAvailable": 2},
        {"minAvailable": "50%"},
    ],
)
def test_what_the_disruption_budget_lets_go_is_not_missed(spec: dict[str, Any]) -> None:
    assert roster(pod("a"), pod("b"), budgets=(budget(**spec),)) == {"a": "lives", "b": "lives"}


def test_no_budget_lets_everybody_go() -> None:
    found = roster(budgets=(budget(maxUnavailable="100%"),))
    assert list(found) == ["torchserve-missing"]


def test_another_pools_budget_says_nothing() -> None:
    other = PodDisruptionBudget.from_dict(
        {"spec": {"selector": {"matchLabels": {"modelswitch.dev/pool": "x"}}, "maxUnavailable": 2}}
    )
    assert "torchserve-missing" in roster(pod("a"), pod("b"), budgets=(other,))


def test_a_pod_that_is_starting_is_not_waited_for() -> None:
    young = pod("d", reported=False, ready=False)
    assert set(roster(pod("a"), pod("b"), pod("c"), young)) == {"a", "b", "c"}
    assert "1 are starting" in roster(pod("a"), pod("b"), young)["torchserve-missing"]


def test_a_pod_that_takes_traffic_and_never_reported_is_down() -> None:
    found = roster(pod("a"), pod("b"), pod("c"), pod("d", reported=False))
    assert found["d"] == "it is ready, but its agent has never reported"


def test_an_agent_that_crashes_is_down_at_once() -> None:
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    found = roster(pod("a"), pod("b"), pod("c", agent=waiting))
    assert found["c"] == "its agent does not run: CrashLoopBackOff"


def test_an_agent_that_has_not_refreshed_for_minutes_is_down() -> None:
    found = roster(pod("a"), pod("b"), pod("c", heartbeat=NOW - timedelta(seconds=300)))
    assert "no heartbeat since" in found["c"]
    fresh = roster(pod("a"), pod("b"), pod("c", heartbeat=NOW - timedelta(seconds=100)))
    assert fresh["c"] == "lives"


def test_a_heartbeat_in_the_future_is_not_believed() -> None:
    found = roster(pod("a"), pod("b"), pod("c", heartbeat=NOW + timedelta(days=900)))
    assert "in the future" in found["c"]


def test_a_rollout_that_has_just_begun_proves_nothing() -> None:
    found = roster(pod("a"), pod("b"), pod("c"), generation=2)
    assert found == {"torchserve": "its rollout has just begun"}


def test_nobody_is_asked_for_is_nobody_there() -> None:
    assert roster(replicas=0) == {}
