"""The slow work on one slot: loading it until its golden request is right, and unloading it.

Loading runs beside everything else and may be cancelled at any await; what it leaves behind is
seen, and put right, by the next `diff`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path

from modelswitch.agent.cache import Cache, archive_name
from modelswitch.agent.plan import PLACEHOLDER, Load
from modelswitch.archive import golden as goldens
from modelswitch.archive.document import Document
from modelswitch.archive.placeholder import write_placeholder
from modelswitch.effects import effect
from modelswitch.errors import (
    GoldenWrong,
    LoadFailed,
    ModelSwitchError,
    ServerUnreachable,
)
from modelswitch.servers.protocol import Answer, ModelServer
from modelswitch.settings import Timeouts
from modelswitch.store import ArchiveStore

PROBE_HEADER = "X-ModelSwitch-Probe"
_LOOK_S = 0.2
_UNLOAD_LOOK_S = 0.5


class Slots:
    """What loading needs: the server, the store, and the folder the server loads from."""

    def __init__(
        self,
        server: ModelServer,
        store: ArchiveStore,
        model_store: Path,
        timeouts: Timeouts,
        *,
        cache_bytes: int = 0,
    ) -> None:
        self.server = server
        self.model_store = model_store
        self.timeouts = timeouts
        self.cache = Cache(store, model_store, cache_bytes)

    async def load(self, step: Load, lock: asyncio.Lock) -> Document:
        """Bring one slot from nothing to PROVEN; raises what it failed of.

        `lock` is that of the model's pointer. It is held for a look and a move, never while a
        big archive is registered.
        """
        document = await self.cache.fetch(step.slot.digest)
        started = time.time()
        await self._register(step, document, lock)
        served = await self.server.describe(step.model)
        version = served.versions.get(step.label) if served else None
        # Found with more, after a restart of the agent: those may be answering.
        if version is None or version.max_workers < step.slot.workers:
            await self.server.workers(step.model, step.label, step.slot.workers)
        try:
            await self.wait_ready(step, started)
            await self.check_golden(step.model, step.label, document)
        except (LoadFailed, GoldenWrong):
            await self._give_up(step)
            raise
        return document

    async def _register(self, step: Load, document: Document, lock: asyncio.Lock) -> None:
        served = await self.server.describe(step.model)
        if served is None:
            # TorchServe: the first version registered is the default before it has a worker.
            async with lock:
                await self.place(step.model)
        if served is None or step.label not in served.versions:
            recipe = document.recipe
            with effect("agent.register", model=step.model, label=step.label):
                await self.server.register(
                    step.model,
                    step.label,
                    archive_name(step.slot.digest),
                    batch_size=recipe.batch_size,
                    max_batch_delay_ms=recipe.max_batch_delay_ms,
                    response_timeout_s=recipe.response_timeout_s,
                )
        async with lock:
            served = await self.server.describe(step.model)
            version = served.versions.get(step.label) if served else None
            if served and version and served.default == step.label and not version.ready:
                await self.place(step.model)
                await self.server.set_default(step.model, PLACEHOLDER)

    async def place(self, model: str) -> None:
        """Register the placeholder: a version without workers, so that the name answers 503."""
        served = await self.server.describe(model)
        if served is not None and PLACEHOLDER in served.versions:
            return
        path = self.model_store / f"placeholder-{model}.mar"
        if not path.exists():
            await asyncio.to_thread(write_placeholder, path, model)
        await self.server.register(model, PLACEHOLDER, path.name)

    async def wait_ready(self, step: Load, started: float) -> None:
        """Until its workers are READY; raises LoadFailed with what a worker said since."""
        deadline = time.monotonic() + self.timeouts.load_s
        while True:
            served = await self.server.describe(step.model)
            version = served.versions.get(step.label) if served else None
            if version is None:
                raise ServerUnreachable(f"{step.model} {step.label} vanished while it was loading")
            if version.ready >= step.slot.workers:
                return
            error = await self.server.load_error(step.model, step.label, since=started)
            if error is not None:
                raise LoadFailed(error)
            if time.monotonic() > deadline:
                raise LoadFailed(
                    f"no worker was READY within {self.timeouts.load_s:g} s",
                    next="a slow model: raise [timeouts] load_s",
                )
            await asyncio.sleep(_LOOK_S)

    async def check_golden(self, model: str, label: str | None, document: Document) -> Answer:
        """Ask the golden request, or the probe where there is none; raises GoldenWrong.

        `label` None asks the default path.
        """
        golden = document.golden
        if golden is None:
            answer = await self.server.predict(
                model, b"{}", label=label, headers={PROBE_HEADER: "1"}, timeout_s=self._patience
            )
        else:
            body = json.dumps(golden.request).encode()
            answer = await self.server.predict(model, body, label=label, timeout_s=self._patience)
        if answer.status != 200:
            raise GoldenWrong(
                f"answered its golden request with HTTP {answer.status}: "
                f"{answer.body[:300].decode(errors='replace')}"
            )
        if golden is not None:
            try:
                said = json.loads(answer.body)
            except ValueError:
                raise GoldenWrong(
                    f"answered its golden request with what is not JSON: {answer.body[:100]!r}"
                ) from None
            wrong = goldens.compare(golden, said)
            if wrong is not None:
                raise GoldenWrong(f"answered its golden request wrong ({wrong})")
        return answer

    @property
    def _patience(self) -> float:
        return self.timeouts.prove_s

    async def unload(self, model: str, label: str, response_timeout_s: float) -> None:
        """Drain, then unregister."""
        if await self.drain(model, label, response_timeout_s):
            with effect("agent.unregister", model=model, label=label):
                await self._drop(model, label)

    async def drain(self, model: str, label: str, response_timeout_s: float) -> bool:
        """Until nothing was pending for a response timeout, or a deadline; whether it is there.

        Only what waits is told, not what a worker is at: that ends within the response timeout.
        """
        deadline = time.monotonic() + max(self.timeouts.unload_s, response_timeout_s)
        quiet_since: float | None = None
        while time.monotonic() < deadline:
            served = await self.server.describe(model)
            version = served.versions.get(label) if served else None
            if version is None:
                return False
            if not version.workers:
                break
            now = time.monotonic()
            if version.pending_requests:
                quiet_since = None
            elif quiet_since is None:
                quiet_since = now
            elif now - quiet_since >= response_timeout_s:
                break
            await asyncio.sleep(_UNLOAD_LOOK_S)
        return True

    async def _give_up(self, step: Load) -> None:
        """Unregister what cannot load: else TorchServe starts its worker again and again.

        Not if it is what answers: wrong once, it may have been right for days.
        """
        # What it failed of is told, whatever becomes of this.
        with contextlib.suppress(ModelSwitchError):
            served = await self.server.describe(step.model)
            if served is not None and served.default != step.label:
                await self._drop(step.model, step.label)

    async def _drop(self, model: str, label: str) -> None:
        """Unregister to the end, cancelled or not: one that came late would hit a new load."""
        dropping = asyncio.ensure_future(self.server.unregister(model, label))
        cancelled = False
        while not dropping.done():
            try:
                await asyncio.shield(dropping)
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError
