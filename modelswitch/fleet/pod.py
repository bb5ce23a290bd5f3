"""The agents' side of a fleet on Kubernetes: pins from a ConfigMap, reports into the pod's status.

A watch of the ConfigMap brings the news. The same ConfigMap, mounted, serves a cold start and
while the API server is away: it is a minute late, so it never stands against the API's word.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from modelswitch.errors import ModelSwitchError, PinsError
from modelswitch.fleet.condition import PINS_KEY
from modelswitch.fleet.config_map import ConfigMapWatch
from modelswitch.fleet.pod_api import PodApi
from modelswitch.fleet.pod_status import PodStatus
from modelswitch.fleet.protocol import Calls, Published
from modelswitch.pins import Pins, parse
from modelswitch.reports import Report


class PodFleet:
    """A Feed for the agent in the pod of that name. It is followed once, by one agent."""

    def __init__(self, api: PodApi, *, config_map: str, mount: Path, pod: str) -> None:
        self._api = api
        self._watch = ConfigMapWatch(api, config_map)
        self._mount = _Mount(mount)
        self._status = PodStatus(api, pod)
        self._stirred = asyncio.Event()

    def published(self) -> Published | None:
        """What stands in the API. Raises FleetUnreachable where it is not there any more.

        From the mount as long as the API was never read, and while it cannot be, if that is newer.
        """
        said, mounted = self._watch.word, self._mount.word
        if said is None or (not self._watch.is_live and _is_newer(mounted, said)):
            said = mounted
        if isinstance(said, ModelSwitchError):
            raise said
        return said

    @property
    def calls(self) -> Calls:
        return self._api.calls

    @property
    def unread(self) -> str | None:
        if self._watch.word is not None:
            return None
        why = self._watch.trouble or "no answer yet"
        return f"the ConfigMap {self._watch.name} was not read since this start: {why}"

    def report(self, report: Report, pins: Pins | None = None) -> None:
        self._status.offer(report, pins)

    async def follow(self, poll_s: float) -> AsyncIterator[None]:
        """As Feed says; ended, it sends what is still to be reported and closes its doors."""
        watching = self._start_watching()
        telling = asyncio.create_task(self._status.run(), name="pod status")
        try:
            while True:
                self._stirred.clear()
                if self._mount.look() and self._is_behind():
                    watching.cancel()  # it seems to stand, and has missed news
                    watching = self._start_watching()
                yield
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(poll_s):
                        await self._stirred.wait()
                for task in (watching, telling):
                    if task.done():
                        task.result()  # what nobody foresaw ends the agent, and is not hidden
        finally:
            for task in (watching, telling):
                task.cancel()
            await asyncio.gather(watching, telling, return_exceptions=True)
            await self._status.farewell()
            await self._api.close()

    def _start_watching(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._watch.run(self._stirred.set), name="config map")

    def _is_behind(self) -> bool:
        said = self._watch.word
        return self._watch.is_live and said is not None and _is_newer(self._mount.word, said)


class _Mount:
    """The mounted ConfigMap. The kubelet writes a new folder and moves `..data` onto it."""

    def __init__(self, folder: Path) -> None:
        self.word: Published | PinsError | None = None
        self._file = folder / PINS_KEY
        self._mark: object = None

    def look(self) -> bool:
        """Read it again if it was changed, and whether it was: looking costs one system call."""
        mark = self._look()
        if mark == self._mark:
            return False
        self._mark = mark
        try:
            text = self._file.read_text(encoding="utf-8")
            self.word = Published(parse(text, source=f"the mounted {self._file}"))
        except OSError:
            self.word = None
        except UnicodeDecodeError as error:
            self.word = PinsError(f"the mounted {self._file} is not text: {error}")
        except PinsError as error:
            self.word = error
        return True

    def _look(self) -> object:
        try:
            seen = self._file.stat()  # of what `..data` leads to now
        except OSError:
            return None
        return seen.st_ino, seen.st_mtime_ns, seen.st_size


def _is_newer(
    mounted: Published | ModelSwitchError | None, said: Published | ModelSwitchError
) -> bool:
    """Whether the mount tells of later pins than the API did."""
    if not isinstance(mounted, Published):
        return False
    return not isinstance(said, Published) or mounted.pins.generation > said.pins.generation
