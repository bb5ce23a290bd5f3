"""The loop: accept pins, look at the server, take the plan's steps, report.

One pass is level-triggered: it starts from what the server holds now, not from what the last
pass did. Quick steps run inside the pass, in order; loading and unloading run as tasks beside
it and wake the next pass when they end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from modelswitch import __version__, effects
from modelswitch.agent import plan
from modelswitch.agent.intake import Intake
from modelswitch.agent.plan import PLACEHOLDER, Known
from modelswitch.agent.slots import Slots
from modelswitch.archive.document import Document
from modelswitch.effects import effect
from modelswitch.errors import GoldenWrong, ModelSwitchError, Temporary
from modelswitch.fleet.protocol import Fleet
from modelswitch.pins import PinnedModel
from modelswitch.reports import (
    Capacity,
    Environment,
    Foreign,
    ModelReport,
    Proof,
    Report,
    SlotReport,
    State,
)
from modelswitch.servers.protocol import ServedModel

log = structlog.get_logger("modelswitch.agent")

POLL_S = 1.0
_FOREIGN_EVERY_S = 5.0  # whoever else is on the server is looked for less often
HEARTBEAT_S = 2.0
_MAX_REST_S = 300.0
_STUCK_S = 30.0  # a proven slot without a worker for so long is loaded again
_AT_ONCE = 8  # models looked at together
_ANSWER_S = 1.0  # a pass waits no longer for a default path: newer pins may want another
_ERROR_CHARS = 4000


@dataclass
class _Failure:
    error: str
    tries: int
    retry_at: float


@dataclass
class _Work:
    """What the agent remembers of one model; all of it can be found out again."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    documents: dict[str, Document] = field(default_factory=dict)  # of proven slots
    failures: dict[str, _Failure] = field(default_factory=dict)
    loading: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    unloading: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    workerless_since: dict[str, float] = field(default_factory=dict)
    proving: tuple[str, asyncio.Task[Proof]] | None = None
    default_proven: str | None = None
    proof: Proof | None = None
    error: str | None = None
    report: ModelReport = field(default_factory=ModelReport)


class Agent:
    """Keeps one server at what the fleet's pins say. `state_dir` outlives a restart."""

    def __init__(
        self,
        *,
        name: str,
        deployment: str,
        fleet: Fleet,
        slots: Slots,
        state_dir: Path,
        pool: str = "default",
        environment: Environment | None = None,
        capacity: Capacity | None = None,
        inference_url: str | None = None,
    ) -> None:
        self.name = name
        self.pool = pool
        self.fleet = fleet
        self.intake = Intake(fleet, deployment, state_dir)
        self.slots = slots
        self.server = slots.server
        self.environment = environment or Environment()
        self.capacity = capacity or Capacity()
        self.inference_url = inference_url
        self.boot_id = uuid.uuid4().hex
        self.applied = 0
        self.report: Report | None = None
        self._wake = asyncio.Event()
        self._works: dict[str, _Work] = {}
        self._default_loads = asyncio.Semaphore(4)
        self._other_loads = asyncio.Semaphore(2)
        self._server_error: str | None = None
        self._foreign: tuple[Foreign, ...] = ()
        self._models: tuple[str, ...] = ()  # all that the server had when it was last asked
        self._foreign_due = 0.0

    # The loop

    async def run(self) -> None:
        """Follow the fleet until cancelled."""
        self.intake.recall()
        self.slots.model_store.mkdir(parents=True, exist_ok=True)
        self._clean()
        follower = asyncio.create_task(self._follow())
        beat = asyncio.create_task(self._heartbeat())
        try:
            while True:
                self._wake.clear()
                await self.once()
                # Not wait_for: Python 3.11's forgets a cancellation that comes with the event.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._wake.wait()
        finally:
            tasks: list[asyncio.Task[Any]] = [follower, beat]
            for work in self._works.values():
                tasks += [*work.loading.values(), *work.unloading.values()]
                tasks += [work.proving[1]] if work.proving else []
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.server.close()

    def say_goodbye(self) -> None:
        """Report that the agent was stopped, so that nobody waits for its heartbeat to age."""
        if self.report is not None:
            long_ago = datetime.fromtimestamp(0, UTC)
            why = "its agent was stopped"
            self._send(
                self.report.model_copy(
                    update={"heartbeat_at": long_ago, "healthy": False, "error": why}
                )
            )

    async def once(self) -> None:
        """One pass: accept, look, act, report."""
        if self.intake.accept():
            for work in self._works.values():
                for failure in work.failures.values():
                    failure.retry_at = 0.0
        pins = self.intake.pins
        mine = {
            name: model
            for name, model in (pins.models.items() if pins else ())
            if model.pool == self.pool
        }
        self._server_error = None
        try:
            await self._pass_all(mine)
            await self._find_foreign(mine)
        except ModelSwitchError as error:
            self._server_error = error.message
        else:
            self.applied = pins.generation if pins else 0
        self._publish_report(mine)

    async def _follow(self) -> None:
        async for _ in self.fleet.follow(POLL_S):
            self._wake.set()

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if self.report is not None:
                self.report = self.report.model_copy(update={"heartbeat_at": datetime.now(UTC)})
                self._send(self.report)

    def _clean(self) -> None:
        """Free the disk of what no pin names."""
        if (pins := self.intake.pins) is not None:
            slots = (slot for model in pins.models.values() for slot in model.slots.values())
            self.slots.discard_but({slot.digest for slot in slots})

    # Looking and acting

    async def _find_foreign(self, mine: dict[str, PinnedModel]) -> None:
        """Models on the server that no pin of ours names: left alone, and reported."""
        for name in list(self._works):
            if name not in mine and not self._works[name].loading:
                del self._works[name]
        if time.monotonic() >= self._foreign_due:
            self._models = await self.server.models()
            self._foreign_due = time.monotonic() + _FOREIGN_EVERY_S
        self._foreign = tuple(Foreign(model=name) for name in self._models if name not in mine)

    async def _pass_all(self, mine: dict[str, PinnedModel]) -> None:
        works = {name: self._works.setdefault(name, _Work()) for name in mine}
        hold = any(
            model.default is not None
            and model.default not in works[name].documents
            and model.default not in works[name].failures
            for name, model in mine.items()
        )
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(name: str) -> None:
            async with gate:
                await self._pass(name, mine[name], works[name], hold_candidates=hold)

        # All of them to their end: a pass that lived on would meet the next one of its model.
        for ended in await asyncio.gather(*(one(name) for name in mine), return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended

    async def _pass(
        self, name: str, wanted: PinnedModel, work: _Work, *, hold_candidates: bool
    ) -> None:
        loading_before = set(work.loading)
        served = await self.server.describe(name)
        self._forget_gone(wanted, served, work, loading_before)
        now = time.monotonic()
        known = Known(
            proven=frozenset(work.documents),
            resting=frozenset(x for x, f in work.failures.items() if f.retry_at > now),
            loading=frozenset(work.loading),
            unloading=frozenset(work.unloading),
            default_proven=work.default_proven,
            hold_candidates=hold_candidates,
        )
        steps = plan.diff(name, wanted, served, known)
        moved = False
        for step in steps:
            try:
                moved |= await self._take(step, work)
            except Temporary:
                raise
            except ModelSwitchError as error:
                log.warning("agent.step_failed", step=repr(step), why=error.message)
                work.error = error.message[:_ERROR_CHARS]
                break
        if moved:
            served = await self.server.describe(name)
            self._wake.set()  # the next pass unloads what the pointer has left
        work.report = self._describe(wanted, served, work)

    def _forget_gone(
        self,
        wanted: PinnedModel,
        served: ServedModel | None,
        work: _Work,
        loading_before: set[str],
    ) -> None:
        """What a restarted server has forgotten is not proven any more."""
        versions = served.versions if served else {}
        now = time.monotonic()
        for label in list(work.documents):
            if label in loading_before:
                continue
            if label not in versions:
                del work.documents[label]
                work.workerless_since.pop(label, None)
            elif versions[label].ready:
                work.workerless_since.pop(label, None)
            elif now - work.workerless_since.setdefault(label, now) > _STUCK_S:
                # TorchServe has given up starting it.
                del work.documents[label]
                del work.workerless_since[label]
        for label in list(work.failures):
            if label not in wanted.slots:
                del work.failures[label]
        if served is None or served.default != work.default_proven:
            work.default_proven = None
            work.proof = None

    async def _take(self, step: plan.Step, work: _Work) -> bool:
        """Take one step; True when the pointer moved."""
        match step:
            case plan.Activate(model, label):
                async with work.lock:
                    if label == PLACEHOLDER:
                        await self.slots.place(model)
                    with effect("agent.activate", model=model, label=label):
                        await self.server.set_default(model, label)
                work.default_proven, work.proof, work.error = None, None, None
                if work.proving is not None:  # asked what was the default before
                    work.proving[1].cancel()
                    work.proving = None
                return True
            case plan.Prove(model, label, digest):
                await self._prove(model, label, digest, work)
            case plan.Scale(model, label, workers):
                with effect("agent.scale", model=model, label=label, workers=workers):
                    await self.server.workers(model, label, workers)
            case plan.Load(_, label):
                self._start(work.loading, label, self._load(step, work))
            case plan.Unload(model, label):
                document = work.documents.pop(label, None)
                drain_s = document.recipe.response_timeout_s if document else 0.0
                self._start(work.unloading, label, self._unload(model, label, drain_s))
            case plan.Cancel(_, label):
                for tasks in (work.loading, work.unloading):
                    if label in tasks:
                        tasks[label].cancel()
        return False

    def _start(
        self,
        tasks: dict[str, asyncio.Task[None]],
        label: str,
        work: Coroutine[Any, Any, None],
    ) -> None:
        task = asyncio.create_task(work)
        tasks[label] = task

        def ended(_: asyncio.Task[None]) -> None:
            tasks.pop(label, None)
            self._wake.set()

        task.add_done_callback(ended)

    async def _prove(self, model: str, label: str, digest: str, work: _Work) -> None:
        """Ask the default path. What takes long goes on beside, and the next passes look again."""
        if work.proving is not None and work.proving[0] != label:
            work.proving[1].cancel()
            work.proving = None
        if work.proving is None:
            asking = asyncio.create_task(
                self._ask(model, label, digest, work.documents[label]), name=f"prove {model}"
            )
            asking.add_done_callback(lambda _: self._wake.set())
            work.proving = label, asking
        task = work.proving[1]
        await asyncio.wait({task}, timeout=_ANSWER_S)
        if not task.done():
            return
        work.proving = None
        work.proof = task.result()
        work.default_proven = label
        work.error = None

    async def _ask(self, model: str, label: str, digest: str, document: Document) -> Proof:
        with effect("agent.prove", model=model, label=label):
            answer = await self.slots.check_golden(model, None, document)
            said = answer.digest
            if said is None or said != digest:
                raise GoldenWrong(f"the default path answered with {said}, pinned is {digest}")
        return Proof(digest=said, at=datetime.now(UTC), latency_ms=answer.latency_ms)

    async def _load(self, step: plan.Load, work: _Work) -> None:
        tries = work.failures[step.label].tries if step.label in work.failures else 0
        try:
            async with self._default_loads if step.is_default else self._other_loads:
                with effect("agent.load", model=step.model, label=step.label):
                    work.documents[step.label] = await self.slots.load(step, work.lock)
            work.failures.pop(step.label, None)
        except (ModelSwitchError, OSError) as error:
            first_s = 1.0 if isinstance(error, Temporary | OSError) else 5.0
            rest_s = min(_MAX_REST_S, first_s * 2**tries) * random.uniform(0.8, 1.2)  # noqa: S311
            work.failures[step.label] = _Failure(
                str(error)[:_ERROR_CHARS], tries + 1, time.monotonic() + rest_s
            )

    async def _unload(self, model: str, label: str, drain_s: float) -> None:
        try:
            await self.slots.unload(model, label, drain_s)
        except ModelSwitchError as error:
            log.warning("agent.unload_failed", model=model, label=label, why=error.message)
            await asyncio.sleep(POLL_S)
        else:
            self._clean()

    # Reporting

    def _describe(
        self, wanted: PinnedModel, served: ServedModel | None, work: _Work
    ) -> ModelReport:
        versions = served.versions if served else {}
        slots: dict[str, SlotReport] = {}
        for label in {*wanted.slots, *versions} - {PLACEHOLDER}:
            version = versions.get(label)
            ready = version.ready if version else 0
            failure = work.failures.get(label)
            if label not in wanted.slots:
                state = State.UNLOADING
            elif failure and label not in work.loading and failure.retry_at > time.monotonic():
                # One that is due again says nothing of the pins that came since.
                state = State.FAILED
            elif label in work.documents and ready:
                state = State.PROVEN
            elif ready:
                state = State.READY
            elif label in work.loading or version is not None:
                state = State.LOADING
            else:
                state = State.ABSENT
            slots[label] = SlotReport(
                state=state, workers=ready, error=failure.error if failure else None
            )
        default = served.default if served else None
        return ModelReport(
            default=None if default == PLACEHOLDER else default,
            proof=work.proof,
            error=work.error,
            slots=dict(sorted(slots.items())),
        )

    def _publish_report(self, mine: dict[str, PinnedModel]) -> None:
        now = datetime.now(UTC)
        models = {name: self._works[name].report for name in mine if name in self._works}
        unhealthy = [
            name
            for name, wanted in mine.items()
            if wanted.default is not None
            and not (
                name in models
                and models[name].default == wanted.default
                and models[name].proof is not None
                and models[name].slot(wanted.default).workers
            )
        ]
        pins = self.intake.pins
        problems = [self._server_error, self.intake.refused]
        if unhealthy and not self._server_error:
            problems.append("not yet proven here: " + ", ".join(unhealthy))
        report = Report(
            server=self.name,
            pool=self.pool,
            boot_id=self.boot_id,
            at=now,
            heartbeat_at=now,
            generation=self.applied,
            epoch=pins.epoch if pins else "main",
            pins_sha256=pins.sha256 if pins else "",
            correlation_id=effects.correlation_id(),
            agent=__version__,
            healthy=self._server_error is None and not unhealthy,
            error="; ".join(p for p in problems if p) or None,
            inference_url=self.inference_url,
            env=self.environment,
            capacity=self.capacity,
            models=models,
            foreign=self._foreign,
        )
        if self.report is not None:
            same = {"at": self.report.at, "heartbeat_at": self.report.heartbeat_at}
            if report.model_copy(update=same) == self.report:
                return
        self.report = report
        self._send(report)

    def _send(self, report: Report) -> None:
        try:
            self.fleet.report(report)
        except Temporary as error:
            log.warning("agent.report_failed", why=error.message)
