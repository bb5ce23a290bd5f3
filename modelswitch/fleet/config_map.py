"""One ConfigMap, followed: listed once, then watched, and listed anew after any trouble."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from modelswitch.errors import FleetUnreachable, ModelSwitchError, PinsError
from modelswitch.fleet.condition import PINS_KEY
from modelswitch.fleet.pod_api import Pause, PodApi, understood
from modelswitch.fleet.protocol import Published
from modelswitch.pins import parse

log = structlog.get_logger("modelswitch.fleet")

_GONE = 410
_WATCH_S = (240, 480)  # how long one watch is asked for: apart, so that pods do not reopen as one
_LATE_S = 15.0  # no end so long after: it is dead
_STOOD_S = 10.0  # a watch that stood so long was no failure


class ConfigMapWatch:
    """`word` is what the API server said last: pins, or why there are none; None before.

    `is_live`: it would have said so, had they changed since. `trouble`: why it is not.
    """

    def __init__(self, api: PodApi, name: str) -> None:
        self.name = name
        self.word: Published | ModelSwitchError | None = None
        self.is_live = False
        self.trouble: str | None = None
        self._api = api
        self._version: str | None = None
        self._select = f"metadata.name={name}"

    async def run(self, changed: Callable[[], None]) -> None:
        """List it, and follow it until cancelled; `changed` is called after each word."""
        self._version = None
        pause = Pause()
        while True:
            began = time.monotonic()
            try:
                if self._version is None:
                    await self._list(changed)
                await self._watch(changed)
            except FleetUnreachable as error:
                self._api.calls.errors += 1
                self._version = None
                self.is_live, self.trouble = False, error.message
                log.warning("fleet.watch_failed", config_map=self.name, why=error.message)
                changed()
            if time.monotonic() - began > _STOOD_S:
                pause.reset()
            if not self.is_live or time.monotonic() - began < 1.0:
                await asyncio.sleep(pause.next_s())

    async def _list(self, changed: Callable[[], None]) -> None:
        answer = await self._api.get("configmaps", fieldSelector=self._select)
        if not answer.is_success:
            raise self._api.refused(answer, f"the ConfigMap {self.name} cannot be read")
        with understood():
            found = answer.json()
            self._hear(next(iter(found["items"]), None))
            self._version = found["metadata"]["resourceVersion"]
        self.is_live, self.trouble = True, None
        changed()

    async def _watch(self, changed: Callable[[], None]) -> None:
        """Until the server ends it; then it may be reopened where it ended."""
        asked_s = random.randint(*_WATCH_S)  # noqa: S311
        async with self._api.stream(
            "configmaps",
            silence_s=asked_s + _LATE_S,
            fieldSelector=self._select,
            resourceVersion=self._version,
            allowWatchBookmarks="true",
            timeoutSeconds=asked_s,
        ) as answer:
            if answer.status_code == _GONE:
                self._version = None
                return
            if not answer.is_success:
                await answer.aread()
                raise self._api.refused(answer, f"the ConfigMap {self.name} cannot be watched")
            async for line in answer.aiter_lines():
                if not self._take(line, changed):
                    return

    def _take(self, line: str, changed: Callable[[], None]) -> bool:
        """One event; False when it says that the watch cannot go on from here."""
        with understood():
            event = json.loads(line)
            kind, found = event["type"], event["object"]
            if kind == "ERROR":
                self._version = None
                if found["code"] == _GONE:
                    return False
                raise FleetUnreachable(f"the watch ended: {found['message']}")
            self._version = found["metadata"]["resourceVersion"]
            if kind != "BOOKMARK":
                self._hear(None if kind == "DELETED" else found)
                changed()
        return True

    def _hear(self, found: Mapping[str, Any] | None) -> None:
        if found is None:
            self.word = FleetUnreachable(
                f"the ConfigMap {self.name} is not there; what was taken from it before stays",
                next="publish the pins again: terraform apply, or modelswitch pins export",
            )
            return
        text = (found.get("data") or {}).get(PINS_KEY)
        try:
            if text is None:
                raise PinsError(f"the ConfigMap {self.name} has no key {PINS_KEY}")  # noqa: TRY301
            self.word = Published(parse(text, source=f"the ConfigMap {self.name}"))
        except PinsError as error:
            self.word = error
