"""A Pod as far as the roster reads it, for lightkube to decode lists and watches into.

Of 18 kB that the API server sends of each, this keeps one: a thousand whole ones take most of a
second to decode, nearly all of it the garbage collector's, over objects that nobody looks at.
"""

# ruff: noqa: N815 the names are the API's own

from __future__ import annotations

from lightkube.core.resource import NamespacedResource
from lightkube.resources import core_v1
from msgspec import Struct


class Waiting(Struct):
    reason: str | None = None


class Terminated(Struct):
    exitCode: int = 0


class ContainerState(Struct):
    waiting: Waiting | None = None
    terminated: Terminated | None = None


class ContainerStatus(Struct):
    name: str
    state: ContainerState | None = None


class Condition(Struct):
    type: str
    status: str
    message: str | None = None
    lastProbeTime: str | None = None


class Status(Struct):
    phase: str | None = None
    reason: str | None = None
    message: str | None = None
    conditions: list[Condition] | None = None
    initContainerStatuses: list[ContainerStatus] | None = None
    containerStatuses: list[ContainerStatus] | None = None


class Owner(Struct):
    uid: str
    controller: bool | None = None


class Metadata(Struct):
    name: str = ""
    resourceVersion: str | None = None
    deletionTimestamp: str | None = None
    ownerReferences: list[Owner] | None = None


class Pod(NamespacedResource, Struct):
    """Read only: what is not here would be lost in writing."""

    _api_info = core_v1.Pod._api_info

    metadata: Metadata
    status: Status | None = None
