"""Which pods must prove a switch, and what each says of itself. Pure: objects in, reports out.

A pool is a Deployment. Of it count the pods of the current ReplicaSet that are not being
deleted, and no fewer than its replicas less what its disruption budget lets go. A pod that has
never reported and is not ready joins later, and takes the newest pins before it is: it is not
waited for. What is missing, or silent, stands in the roster as a server that is down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from modelswitch.fleet.condition import CONDITION, POOL_LABEL, Wanted, parse
from modelswitch.pins import Pins
from modelswitch.reports import Report

if TYPE_CHECKING:
    from lightkube.resources.apps_v1 import Deployment, ReplicaSet
    from lightkube.resources.policy_v1 import PodDisruptionBudget

    from modelswitch.fleet.pods import Condition, ContainerStatus, Pod

MISSING = "-missing"  # ends the name of a server that stands for pods that are not there
AGENT = "agent"  # the agent's container
# An agent refreshes its condition once a minute; three are missed before it counts as silent.
SILENT_PROBE_S = 200.0

_REVISION = "deployment.kubernetes.io/revision"
_LONG_AGO = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Objects:
    """What was listed of one deployment, in one look."""

    deployments: Sequence[Deployment] = ()
    replica_sets: Sequence[ReplicaSet] = ()
    budgets: Sequence[PodDisruptionBudget] = ()
    pods: dict[str, Pod] = field(default_factory=dict)


def reports(objects: Objects, pins: Pins | None, now: datetime) -> tuple[Report, ...]:
    """The report of each pod that counts, by name; of what is missing one for each pool."""
    found: list[Report] = []
    for deployment in objects.deployments:
        found += _of_pool(deployment, objects, pins, now)
    return tuple(sorted(found, key=lambda report: report.server))


def _of_pool(
    deployment: Deployment, objects: Objects, pins: Pins | None, now: datetime
) -> list[Report]:
    name, pool = _name(deployment), pool_of(deployment)
    current = current_replica_set(deployment, objects.replica_sets)
    replicas = deployment.spec.replicas if deployment.spec else None
    wanted = (1 if replicas is None else replicas) - _disruptable(
        deployment, objects.budgets, 1 if replicas is None else replicas
    )
    if current is None:
        return [] if wanted <= 0 else [_down(name, pool, "its rollout has just begun")]
    mine = [p for p in objects.pods.values() if _owner(p) == _uid(current) and not _is_ending(p)]
    asked = Wanted.of(pins, pool) if pins else None
    found = [r for pod in mine if (r := _report(pod, pool, asked, now)) is not None]
    if len(found) < wanted:
        joining = len(mine) - len(found)
        there = f"{len(found)} of at least {wanted} pods have an agent that reports"
        why = there + (f", {joining} are starting" if joining else "")
        found.append(_down(name + MISSING, pool, why))
    return found


def pool_of(deployment: Deployment) -> str:
    labels = (deployment.metadata.labels if deployment.metadata else None) or {}
    return str(labels.get(POOL_LABEL, "default"))


def current_replica_set(
    deployment: Deployment, replica_sets: Iterable[ReplicaSet]
) -> ReplicaSet | None:
    """The newest ReplicaSet of a Deployment; None until its controller has made it."""
    status = deployment.status
    generation = deployment.metadata.generation if deployment.metadata else None
    if status is None or (status.observedGeneration or 0) < (generation or 0):
        return None
    mine = [r for r in replica_sets if _owner(r) == _uid(deployment)]
    return max(mine, key=_revision, default=None)


def _report(pod: Pod, pool: str, wanted: Wanted | None, now: datetime) -> Report | None:
    """What a pod says; None of one that is only starting."""
    name = _name(pod)
    condition = _condition(pod, CONDITION)
    if condition is None:
        ready = _condition(pod, "Ready")
        if ready is None or ready.status != "True":
            return None
        return _down(name, pool, "it is ready, but its agent has never reported")
    told = {"message": condition.message, "lastProbeTime": condition.lastProbeTime}
    report = parse(told, server=name, pool=pool, wanted=wanted)
    if report is None:
        return _down(name, pool, f"its condition {CONDITION} cannot be read")
    dead = _why_dead(pod)
    if dead is not None:
        return report.model_copy(
            update={"heartbeat_at": _LONG_AGO, "healthy": False, "error": dead}
        )
    # Nor is one in the future believed: it would never grow old.
    if abs(now - report.heartbeat_at) < timedelta(seconds=SILENT_PROBE_S):
        return report.model_copy(update={"heartbeat_at": now})
    if report.heartbeat_at > now:
        return _down(name, pool, "its heartbeat lies in the future: is its node's clock right?")
    return report


def _why_dead(pod: Pod) -> str | None:
    """Why the agent of a pod cannot be alive, as the kubelet says."""
    status = pod.status
    if status is None:
        return None
    if status.phase in ("Failed", "Succeeded", "Unknown"):
        return f"the pod is {status.phase}: {status.reason or status.message or 'no reason given'}"
    for container in _statuses(pod):
        state = container.state
        if container.name != AGENT or state is None:
            continue
        if state.waiting is not None:
            return f"its agent does not run: {state.waiting.reason or 'waiting'}"
        if state.terminated is not None and state.terminated.exitCode:
            return f"its agent ended with exit code {state.terminated.exitCode}"
    return None


def _statuses(pod: Pod) -> list[ContainerStatus]:
    status = pod.status
    if status is None:
        return []
    return [*(status.initContainerStatuses or ()), *(status.containerStatuses or ())]


def _disruptable(
    deployment: Deployment, budgets: Iterable[PodDisruptionBudget], replicas: int
) -> int:
    """How many pods of a Deployment may be away by its disruption budget; 0 without one."""
    template = deployment.spec.template.metadata if deployment.spec else None
    labels = (template.labels if template else None) or {}
    allowed = 0
    for budget in budgets:
        spec = budget.spec
        wanted = spec.selector.matchLabels if spec and spec.selector else None
        if spec is None or not wanted or not wanted.items() <= labels.items():
            continue
        if spec.maxUnavailable is not None:
            allowed = _count(spec.maxUnavailable, replicas)
        elif spec.minAvailable is not None:
            allowed = replicas - _count(spec.minAvailable, replicas)
    # However generous: somebody must have proven it.
    return max(0, min(allowed, replicas - 1))


def _count(value: int | str, replicas: int) -> int:
    """`2`, `"2"` or `"25%"` of the replicas; percentages are rounded up, as Kubernetes does."""
    text = str(value)
    if text.endswith("%"):
        return math.ceil(float(text[:-1]) * replicas / 100)
    return int(text)


def _down(server: str, pool: str, why: str) -> Report:
    return Report(
        server=server,
        pool=pool,
        boot_id="",
        at=_LONG_AGO,
        heartbeat_at=_LONG_AGO,
        healthy=False,
        error=why,
    )


def _condition(pod: Pod, kind: str) -> Condition | None:
    conditions = (pod.status.conditions if pod.status else None) or ()
    return next((c for c in conditions if c.type == kind), None)


def _is_ending(pod: Pod) -> bool:
    return bool(pod.metadata and pod.metadata.deletionTimestamp)


def _name(thing: Deployment | Pod) -> str:
    return (thing.metadata.name if thing.metadata else None) or ""


def _uid(thing: Deployment | ReplicaSet) -> str:
    return (thing.metadata.uid if thing.metadata else None) or ""


def _owner(thing: ReplicaSet | Pod) -> str | None:
    owners = (thing.metadata.ownerReferences if thing.metadata else None) or ()
    return next((owner.uid for owner in owners if owner.controller), None)


def _revision(replica_set: ReplicaSet) -> int:
    annotations = (replica_set.metadata.annotations if replica_set.metadata else None) or {}
    text = annotations.get(_REVISION, "0")
    return int(text) if text.isdigit() else 0
