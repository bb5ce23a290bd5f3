"""What a pod says of itself: its agent's newest report, as a condition of its status.

The newest wins, and few requests are made: what somebody may be waiting for goes at once, what
lies between is drawn together, and what has not changed is repeated once a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from datetime import UTC, datetime
from typing import Any

import structlog

from modelswitch.errors import FleetUnreachable
from modelswitch.fleet.condition import CONDITION, render
from modelswitch.fleet.pod_api import Pause, PodApi, understood
from modelswitch.pins import Pins
from modelswitch.reports import Report, State

log = structlog.get_logger("modelswitch.fleet")

HEARTBEAT_S = 60.0
SOON_S = 1.0
_FAREWELL_S = 3.0
_EPOCH = datetime.fromtimestamp(0, UTC)
_ENDS = (State.PROVEN, State.FAILED)
_GONE = (404, 409, 410)  # no such pod any more, or another one of the same name


class PodStatus:
    """Sends one pod's reports; `offer` never waits."""

    def __init__(self, api: PodApi, pod: str) -> None:
        self._api = api
        self._path = f"pods/{pod}/status"
        self._offered: tuple[Report, Pins | None] | None = None
        self._dealt_with: tuple[Report, Pins | None] | None = None
        self._due = math.inf  # when what is offered must be sent, by the monotonic clock
        self._not_before = 0.0
        self._beat_at = 0.0
        self._stirred = asyncio.Event()
        self._uid: str | None = None
        self._said: dict[str, Any] | None = None  # the condition as it was sent last
        self._standing: tuple[str, datetime] | None = None  # its status, and since when

    def offer(self, report: Report, pins: Pins | None) -> None:
        """Have `report` sent, of an agent that follows `pins`, instead of any offered before."""
        before = self._offered[0] if self._offered else None
        self._offered = report, pins
        if before is None or _news(report) != _news(before):
            self._due = 0.0
        elif report.at != before.at:
            self._due = min(self._due, time.monotonic() + SOON_S)
        else:
            return  # a heartbeat: ours are rarer
        self._stirred.set()

    async def run(self) -> None:
        """Send until cancelled, or until the pod is no more."""
        pause = Pause()
        while True:
            await self._until_due()
            try:
                if not await self._send():
                    log.info("fleet.pod_gone", path=self._path)
                    return
                pause.reset()
            except FleetUnreachable as error:
                self._api.calls.errors += 1
                self._due, self._not_before = 0.0, time.monotonic() + pause.next_s()
                log.warning("fleet.report_failed", why=error.message)

    async def farewell(self) -> None:
        """Send what is still to be sent, once, and not for long."""
        if self._offered is self._dealt_with:
            return
        with contextlib.suppress(FleetUnreachable, TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await self._send()

    async def _until_due(self) -> None:
        while True:
            self._stirred.clear()
            wait_s = max(self._due, self._not_before) - time.monotonic()
            if wait_s <= 0 and self._offered is not None:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s if wait_s < math.inf else None):
                    await self._stirred.wait()

    async def _send(self) -> bool:
        """Send what is offered, if it says anything new; False when the pod is no more."""
        if self._uid is None and not await self._learn():
            return False
        if self._offered is None:
            return True
        self._due = math.inf  # what is offered from here on is due by itself
        offered = self._offered
        condition, said = self._condition(*offered)
        if said != self._said or time.monotonic() >= self._beat_at:
            patch = {"metadata": {"uid": self._uid}, "status": {"conditions": [condition]}}
            answer = await self._api.patch(self._path, patch)
            if answer.status_code in _GONE:
                return False
            if not answer.is_success:
                raise self._api.refused(answer, "the report cannot be written")
            self._said = said
            self._standing = condition["status"], _time(condition["lastTransitionTime"])
            self._beat_at = time.monotonic() + HEARTBEAT_S * random.uniform(0.9, 1.1)  # noqa: S311
        self._dealt_with = offered
        self._due = min(self._due, self._beat_at)
        return True

    async def _learn(self) -> bool:
        """Who the pod is, and what stood in its status before this start.

        A patch of nothing answers with the pod: the only way to read it with `patch` alone.
        """
        answer = await self._api.patch(self._path, {})
        if answer.status_code in _GONE:
            return False
        if not answer.is_success:
            raise self._api.refused(answer, "the pod's status cannot be patched")
        with understood():
            pod = answer.json()
            self._uid = str(pod["metadata"]["uid"])
            for condition in pod["status"].get("conditions", ()):
                since = condition.get("lastTransitionTime")
                if condition["type"] == CONDITION and since:
                    self._standing = condition["status"], _time(since)
        return True

    def _condition(
        self, report: Report, pins: Pins | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The condition, and what of it is news. Its transition time moves when its status does."""
        since = self._standing[1] if self._standing else None
        condition = render(report, pins, since)
        if self._standing and condition["status"] != self._standing[0]:
            condition = render(report, pins, datetime.now(UTC))
        timeless = report.model_copy(update={"at": _EPOCH, "heartbeat_at": _EPOCH})
        return condition, render(timeless, pins)


def _news(report: Report) -> object:
    """What somebody may be waiting for."""
    return (
        report.boot_id,
        report.generation,
        report.pins_sha256,
        report.healthy,
        report.error,
        {
            name: (
                model.default,
                model.proof.digest if model.proof else None,
                model.error,
                {(x, slot.state) for x, slot in model.slots.items() if slot.state in _ENDS},
            )
            for name, model in report.models.items()
        },
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
