"""The loop: accept pins, look at the server, take the plan's steps, report.

One pass is level-triggered: it starts from what the server holds now, not from what the last
pass did. Passes follow each other quickly while something is under way, and rarely when all is
as pinned: news wake the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from modelswitch.agent.intake import Intake
from modelswitch.agent.model import Loads, Model
from modelswitch.agent.readiness import Readiness
from modelswitch.agent.reporter import Reporter
from modelswitch.agent.slots import Slots
from modelswitch.effects import set_correlation_id
from modelswitch.errors import ModelSwitchError, Temporary
from modelswitch.fleet.protocol import Feed
from modelswitch.pins import PinnedModel, Pins
from modelswitch.reports import Capacity, Environment, Foreign, Report

log = structlog.get_logger("modelswitch.agent")

POLL_S = 1.0
QUIET_S = 5.0  # between two looks at a server that is as pinned
HEARTBEAT_S = 2.0
_FOREIGN_EVERY_S = 10.0  # whoever else is on the server is looked for less often
_AT_ONCE = 8  # models looked at together
_DRAIN_LOOK_S = 0.5
_STUCK_S = 60.0  # a loop that has not turned for so long will not


class Agent:
    """Keeps one server at what the fleet's pins say. `state_dir` outlives a restart.

    `drain_s`: how long, when stopped, requests in flight on the server are waited for.
    """

    def __init__(
        self,
        *,
        name: str,
        deployment: str,
        fleet: Feed,
        slots: Slots,
        state_dir: Path,
        pool: str = "default",
        environment: Callable[[], Environment] = Environment,
        capacity: Capacity | None = None,
        inference_url: str | None = None,
        drain_s: float = 0.0,
    ) -> None:
        self.pool = pool
        self.fleet = fleet
        self.intake = Intake(fleet, deployment, state_dir)
        self.slots = slots
        self.server = slots.server
        self.loads = Loads()
        self.readiness = Readiness()
        self.reporter = Reporter(
            fleet,
            name=name,
            pool=pool,
            environment=environment,
            capacity=capacity or Capacity(),
            inference_url=inference_url,
        )
        self.applied = 0
        self.drain_s = drain_s
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._turned_at = time.monotonic()
        self._models: dict[str, Model] = {}
        self._pins: Pins | None = None  # those of the last pass, and of them this pool's
        self._mine: dict[str, PinnedModel] = {}
        self._foreign: tuple[Foreign, ...] = ()
        self._listed: tuple[str, ...] = ()  # all that the server had when it was last asked
        self._foreign_due = 0.0

    @property
    def boot_id(self) -> str:
        return self.reporter.boot_id

    @property
    def report(self) -> Report | None:
        return self.reporter.report

    @property
    def why_not_ready(self) -> str | None:
        """One line; None when requests may come."""
        return "it is being stopped" if self._stopping.is_set() else self.readiness.why_not

    @property
    def turned_s(self) -> float:
        """Seconds since the loop turned last."""
        return time.monotonic() - self._turned_at

    @property
    def why_stuck(self) -> str | None:
        """One line; None while the loop turns."""
        if self._stopping.is_set() or self.turned_s < _STUCK_S:
            return None
        return f"the loop has not turned for {self.turned_s:.0f} s"

    def proven(self) -> dict[str, bool]:
        """Each model of this pool that has a default, and whether it stands and was proven."""
        return {
            name: name in self._models and self._models[name].is_as_pinned(wanted)
            for name, wanted in self._mine.items()
            if wanted.default is not None
        }

    # The loop

    async def run(self) -> None:
        """Follow the fleet until stopped, or cancelled, which is as if it were killed."""
        self.intake.recall()
        self.slots.model_store.mkdir(parents=True, exist_ok=True)
        follower = asyncio.create_task(self._follow(), name="follow")
        turning = [
            asyncio.create_task(self._turn(), name="turn"),
            asyncio.create_task(self._beat(), name="beat"),
        ]
        stopped = asyncio.create_task(self._stopping.wait(), name="stop")
        try:
            done, _ = await asyncio.wait(
                {follower, stopped, *turning}, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done - {stopped}:
                task.result()
            await _end(turning + self._work())
            await self._drain()
            self.say_goodbye()
        finally:
            await _end([follower, stopped, *turning, *self._work()])
            await self.server.close()

    def stop(self) -> None:
        """Take no pins and load nothing from now on; `run` ends when the server is quiet."""
        self._stopping.set()

    def say_goodbye(self) -> None:
        self.reporter.say_goodbye()

    async def once(self) -> None:
        """One pass: accept, look, act, report."""
        unread = self.fleet.unread  # before the pins are: news meanwhile are the next pass's
        self.intake.accept()
        pins = self.intake.pins
        if pins is not self._pins:
            self._pins = pins
            set_correlation_id(self.intake.correlation_id)
            self._mine = pins.of_pool(self.pool) if pins else {}
            self.slots.cache.keep({x.digest for m in self._mine.values() for x in m.slots.values()})
            for model in self._models.values():
                model.try_again()
        mine, failed = self._mine, None
        try:
            await self._pass_all(mine)
            await self._find_foreign(mine)
        except ModelSwitchError as error:
            failed = error.message
        else:
            self.applied = pins.generation if pins else 0
        unproven = [name for name, is_proven in self.proven().items() if not is_proven]
        if failed is None:
            missing = unread if not self.intake.recalled else None
            if pins is None:
                missing = missing or self.intake.refused or "no pins were taken yet"
            self.readiness.look(mine, self._models, missing=missing, unproven=unproven)
        else:
            self.readiness.fail(failed)
        self.reporter.tell(
            pins,
            applied=self.applied,
            models={name: self._models[name].report for name in mine if name in self._models},
            foreign=self._foreign,
            unproven=unproven,
            server_error=failed,
            refused=self.intake.refused,
        )

    async def _turn(self) -> None:
        while True:
            self._wake.clear()
            await self.once()
            self._turned_at = time.monotonic()
            # Not wait_for: Python 3.11's forgets a cancellation that comes with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rest_s):
                    await self._wake.wait()

    @property
    def _rest_s(self) -> float:
        settled = self._models and all(model.is_settled for model in self._models.values())
        return QUIET_S if settled else POLL_S

    async def _follow(self) -> None:
        while True:
            try:
                async for _ in self.fleet.follow(POLL_S):
                    if not self._stopping.is_set() and self.intake.accept():
                        self._wake.set()
            except Temporary as error:
                log.warning("agent.follow_failed", why=error.message)
            await asyncio.sleep(POLL_S)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            self.reporter.beat()

    async def _drain(self) -> None:
        """Wait until nothing is pending on the server, twice; not if it is gone."""
        deadline = time.monotonic() + self.drain_s
        quiet = 0
        with contextlib.suppress(ModelSwitchError):
            while quiet < 2 and time.monotonic() < deadline:
                served = await asyncio.gather(*(self.server.describe(n) for n in self._models))
                pending = sum(v.pending_requests for m in served if m for v in m.versions.values())
                quiet = 0 if pending else quiet + 1
                await asyncio.sleep(_DRAIN_LOOK_S)

    def _work(self) -> list[asyncio.Task[Any]]:
        return [task for model in self._models.values() for task in model.end()]

    # Looking and acting

    async def _find_foreign(self, mine: dict[str, PinnedModel]) -> None:
        """Models on the server that no pin of ours names: left alone, and reported."""
        for name in list(self._models):
            if name not in mine and not self._models[name].is_loading:
                del self._models[name]
        if time.monotonic() >= self._foreign_due:
            self._listed = await self.server.models()
            self._foreign_due = time.monotonic() + _FOREIGN_EVERY_S
        self._foreign = tuple(Foreign(model=name) for name in self._listed if name not in mine)

    async def _pass_all(self, mine: dict[str, PinnedModel]) -> None:
        for name in mine:
            if name not in self._models:
                self._models[name] = Model(name, self.slots, self.loads, self._wake.set)
        hold = any(self._models[name].is_awaited(wanted.default) for name, wanted in mine.items())
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(name: str) -> None:
            async with gate:
                await self._models[name].turn(mine[name], hold_candidates=hold)
                self._turned_at = time.monotonic()

        # All of them to their end: a pass that lived on would meet the next one of its model.
        for ended in await asyncio.gather(*(one(name) for name in mine), return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended


async def _end(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
