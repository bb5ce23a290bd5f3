"""One pinned model on this server: what is known of it, and the steps of one pass.

Quick steps run inside the pass, in order; loading and unloading run as tasks beside it and wake
the next pass when they end. All that is remembered here can be found out again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from modelswitch.agent import plan, standin
from modelswitch.agent.plan import PLACEHOLDER, Known
from modelswitch.agent.slots import Slots
from modelswitch.archive.document import Document
from modelswitch.effects import effect
from modelswitch.errors import GoldenWrong, ModelSwitchError, Temporary
from modelswitch.pins import PinnedModel
from modelswitch.reports import ModelReport, Proof, SlotReport, State
from modelswitch.servers.protocol import ServedModel, ServedVersion

log = structlog.get_logger("modelswitch.agent")

_MAX_REST_S = 300.0
_STUCK_S = 30.0  # a proven slot without a worker for so long is loaded again
_ANSWER_S = 1.0  # a pass waits no longer for a default path: newer pins may want another
_UNLOAD_AGAIN_S = 1.0
_SHRINK_AGAIN_S = 30.0
_ERROR_CHARS = 4000
_MEMORY_STEP = 10_000_000  # bytes: what is less changes no report


@dataclass(slots=True)
class Loads:
    """What all models of a server share: how many load at once, and how it went so far."""

    defaults: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(4))
    others: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    done: int = 0
    failed: int = 0


@dataclass(slots=True)
class _Failure:
    error: str
    tries: int
    retry_at: float


class Model:
    """`report` is how it stood after the last pass; `wake` asks for another one."""

    def __init__(self, name: str, slots: Slots, loads: Loads, wake: Callable[[], None]) -> None:
        self.name = name
        self.report = ModelReport()
        self.is_settled = False  # after the last pass nothing was left to do, or under way
        self._slots = slots
        self._server = slots.server
        self._loads = loads
        self._wake = wake
        self._lock = asyncio.Lock()
        self._documents: dict[str, Document] = {}  # of proven slots
        self._failures: dict[str, _Failure] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._unloading: dict[str, asyncio.Task[None]] = {}
        self._shrinking: dict[str, asyncio.Task[None]] = {}
        self._shrinks: dict[str, plan.Shrink] = {}  # those under way
        self._shrink_again: dict[str, float] = {}  # of what failed: when it is due
        self._workerless_since: dict[str, float] = {}
        self._memory: dict[str, int] = {}  # the most that a worker of each slot took, in bytes
        self._proving: tuple[str, asyncio.Task[Proof]] | None = None
        self._default_proven: str | None = None
        self._answered_wrong = False  # the default path, since the pointer moved
        self._proof: Proof | None = None
        self._error: str | None = None

    def is_awaited(self, default: str | None) -> bool:
        """Whether this default is still to be loaded, and has not failed."""
        return (
            default is not None and default not in self._documents and default not in self._failures
        )

    def is_as_pinned(self, wanted: PinnedModel) -> bool:
        """Whether the pinned default stands and was proven on its own path."""
        found = self.report
        return (
            found.default == wanted.default
            and found.proof is not None
            and wanted.default is not None
            and found.slot(wanted.default).workers > 0
        )

    @property
    def answers(self) -> bool:
        """Whether what is default here, pinned or not any more, is READY and proven.

        Between the move of the pointer and its proof the slot's own proof counts.
        """
        default = self.report.default
        if default is None or not self.report.slot(default).workers:
            return False
        is_being_asked = default in self._documents and not self._answered_wrong
        return default == self._default_proven or is_being_asked

    @property
    def is_loading(self) -> bool:
        return bool(self._loading)

    def try_again(self) -> None:
        """What has failed is due at once: newer pins were taken."""
        self._shrink_again.clear()
        for failure in self._failures.values():
            failure.retry_at = 0.0

    def end(self) -> list[asyncio.Task[Any]]:
        """Cancel what is under way; what is to be waited for."""
        beside = (self._loading, self._unloading, self._shrinking)
        tasks: list[asyncio.Task[Any]] = [task for some in beside for task in some.values()]
        tasks += [self._proving[1]] if self._proving else []
        for task in tasks:
            task.cancel()
        return tasks

    # One pass

    async def turn(self, wanted: PinnedModel, *, hold_candidates: bool) -> None:
        """Look, take the plan's steps, look again where the pointer moved. Raises Temporary."""
        self.is_settled = False
        loading_before = set(self._loading)
        served = self._as_meant(await self._server.describe(self.name))
        self._forget_gone(wanted, served, loading_before)
        now = time.monotonic()
        known = Known(
            proven=frozenset(self._documents),
            resting=frozenset(x for x, f in self._failures.items() if f.retry_at > now),
            loading=frozenset(self._loading),
            unloading=frozenset(self._unloading),
            shrinking=frozenset(self._shrinks.values()),
            unshrinkable=frozenset(x for x, at in self._shrink_again.items() if at > now),
            kept=frozenset(label + plan.STANDIN for label in self._shrinks),
            default_proven=self._default_proven,
            hold_candidates=hold_candidates,
        )
        steps = plan.diff(self.name, wanted, served, known)
        moved = False
        for step in steps:
            try:
                moved |= await self._take(step)
            except Temporary:
                raise
            except ModelSwitchError as error:
                log.warning("agent.step_failed", step=repr(step), why=error.message)
                self._error = error.message[:_ERROR_CHARS]
                break
        if moved:
            served = self._as_meant(await self._server.describe(self.name))
            self._wake()  # the next pass unloads what the pointer has left
        self.report = self._describe(wanted, served)
        busy = self._loading or self._unloading or self._shrinking or self._workerless_since
        short = any(self.report.slot(x).workers != s.workers for x, s in wanted.slots.items())
        self.is_settled = not (steps or busy or short)

    def _as_meant(self, served: ServedModel | None) -> ServedModel | None:
        """While a stand-in answers for a slot, that slot is what is the default."""
        for label in self._shrinks:
            if served is not None and served.default == label + plan.STANDIN:
                return replace(served, default=label)
        return served

    def _forget_gone(
        self, wanted: PinnedModel, served: ServedModel | None, loading_before: set[str]
    ) -> None:
        """What a restarted server has forgotten is not proven any more."""
        versions = served.versions if served else {}
        now = time.monotonic()
        for label in list(self._documents):
            if label in loading_before:
                continue
            if label not in versions:
                del self._documents[label]
                self._workerless_since.pop(label, None)
            elif versions[label].ready:
                self._workerless_since.pop(label, None)
            elif now - self._workerless_since.setdefault(label, now) > _STUCK_S:
                # TorchServe has given up starting it.
                del self._documents[label]
                del self._workerless_since[label]
        for label in list(self._failures):
            if label not in wanted.slots:
                del self._failures[label]
        if served is None or served.default != self._default_proven:
            self._default_proven = None
            self._proof = None

    async def _take(self, step: plan.Step) -> bool:
        """Take one step; True when the pointer moved."""
        match step:
            case plan.Activate(_, label):
                async with self._lock:
                    if label == PLACEHOLDER:
                        await self._slots.place(self.name)
                    with effect("agent.activate", model=self.name, label=label):
                        await self._server.set_default(self.name, label)
                self._default_proven, self._proof, self._error = None, None, None
                self._answered_wrong = False
                if self._proving is not None:  # asked what was the default before
                    self._proving[1].cancel()
                    self._proving = None
                return True
            case plan.Prove(_, label, digest):
                await self._prove(label, digest)
            case plan.Scale(_, label, workers):
                with effect("agent.scale", model=self.name, label=label, workers=workers):
                    await self._server.workers(self.name, label, workers)
            case plan.Load(_, label):
                self._start(self._loading, label, self._load(step))
            case plan.Unload(_, label):
                document = self._documents.pop(label, None)
                # One that was left over stood in for a slot, and drains as that does.
                document = document or self._documents.get(label.removesuffix(plan.STANDIN))
                self._workerless_since.pop(label, None)
                drain_s = document.recipe.response_timeout_s if document else 0.0
                self._start(self._unloading, label, self._unload(label, drain_s))
            case plan.Shrink(_, label):
                self._shrinks[label] = step
                self._start(self._shrinking, label, self._shrink(step, self._documents[label]))
            case plan.Cancel(_, label):
                for tasks in (self._loading, self._unloading, self._shrinking):
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
            self._wake()

        task.add_done_callback(ended)

    # Proving the default path

    async def _prove(self, label: str, digest: str) -> None:
        """Ask the default path. What takes long goes on beside, and the next passes look again."""
        if self._proving is not None and self._proving[0] != label:
            self._proving[1].cancel()
            self._proving = None
        if self._proving is None:
            asking = asyncio.create_task(
                self._ask(label, digest, self._documents[label]), name=f"prove {self.name}"
            )
            asking.add_done_callback(lambda _: self._wake())
            self._proving = label, asking
        task = self._proving[1]
        await asyncio.wait({task}, timeout=_ANSWER_S)
        if not task.done():
            return
        self._proving = None
        try:
            self._proof = task.result()
        except GoldenWrong:
            self._answered_wrong = True
            raise
        self._default_proven = label
        self._error = None

    async def _ask(self, label: str, digest: str, document: Document) -> Proof:
        with effect("agent.prove", model=self.name, label=label):
            answer = await self._slots.check_golden(self.name, None, document)
            said = answer.digest
            if said is None or said != digest:
                raise GoldenWrong(f"the default path answered with {said}, pinned is {digest}")
        return Proof(digest=said, at=datetime.now(UTC), latency_ms=answer.latency_ms)

    # Beside the passes

    async def _load(self, step: plan.Load) -> None:
        label = step.label
        tries = self._failures[label].tries if label in self._failures else 0
        try:
            async with self._loads.defaults if step.is_default else self._loads.others:
                with effect("agent.load", model=self.name, label=label):
                    self._documents[label] = await self._slots.load(step, self._lock)
            self._failures.pop(label, None)
            self._loads.done += 1
        except (ModelSwitchError, OSError) as error:
            first_s = 1.0 if isinstance(error, Temporary | OSError) else 5.0
            rest_s = min(_MAX_REST_S, first_s * 2**tries) * random.uniform(0.8, 1.2)  # noqa: S311
            self._failures[label] = _Failure(
                str(error)[:_ERROR_CHARS], tries + 1, time.monotonic() + rest_s
            )
            self._loads.failed += 1
            asyncio.get_running_loop().call_later(rest_s, self._wake)

    async def _shrink(self, step: plan.Shrink, document: Document) -> None:
        try:
            await standin.shrink(self._slots, step, document, self._lock)
            self._error = None
        except (ModelSwitchError, OSError) as error:
            log.warning("agent.shrink_failed", model=self.name, label=step.label, why=str(error))
            why = f"{step.label} keeps its workers, as no stand-in loads: {error}"
            self._error = why[:_ERROR_CHARS]
            self._shrink_again[step.label] = time.monotonic() + _SHRINK_AGAIN_S
        finally:
            self._shrinks.pop(step.label, None)

    async def _unload(self, label: str, drain_s: float) -> None:
        try:
            await self._slots.unload(self.name, label, drain_s)
        except ModelSwitchError as error:
            log.warning("agent.unload_failed", model=self.name, label=label, why=error.message)
            await asyncio.sleep(_UNLOAD_AGAIN_S)

    def _describe(self, wanted: PinnedModel, served: ServedModel | None) -> ModelReport:
        versions = served.versions if served else {}
        slots: dict[str, SlotReport] = {}
        standins = {label + plan.STANDIN for label in self._shrinks}
        for label in {*wanted.slots, *versions} - {PLACEHOLDER} - standins:
            version = versions.get(label)
            ready = version.ready if version else 0
            failure = self._failures.get(label)
            if label not in wanted.slots:
                state = State.UNLOADING
            elif failure and label not in self._loading and failure.retry_at > time.monotonic():
                # One that is due again says nothing of the pins that came since.
                state = State.FAILED
            elif label in self._documents and ready:
                state = State.PROVEN
            elif ready:
                state = State.READY
            elif label in self._loading or version is not None:
                state = State.LOADING
            else:
                state = State.ABSENT
            slots[label] = SlotReport(
                state=state,
                workers=ready,
                error=failure.error if failure else None,
                memory_bytes=self._measured(label, version),
            )
        self._memory = {label: most for label, most in self._memory.items() if label in versions}
        default = served.default if served else None
        return ModelReport(
            default=None if default == PLACEHOLDER else default,
            proof=self._proof,
            error=self._error,
            slots=dict(sorted(slots.items())),
        )

    def _measured(self, label: str, version: ServedVersion | None) -> int | None:
        """The most that a worker took so far, rounded up so that a report seldom changes by it."""
        now = (
            max((w.memory_bytes for w in version.workers if w.is_ready), default=0)
            if version
            else 0
        )
        most = max(now, self._memory.get(label, 0))
        if not most:
            return None
        self._memory[label] = -(-most // _MEMORY_STEP) * _MEMORY_STEP
        return self._memory[label]
