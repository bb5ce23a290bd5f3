"""Fewer workers without a lost request: a stand-in answers while the others go.

TorchServe ends a worker whatever it is at: a request in flight is answered 500, or put back into
the queue, as a race decides, and nobody can tell beforehand which worker is idle. So the same
archive is registered under a second label, with as many workers as shall remain; the pointer goes
there, and back when the slot itself has been quiet and has lost its workers. Killed in between,
the next agent finds a version that no pin names in the pointer's place, and puts that right.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
import zipfile
from pathlib import Path

from modelswitch.agent.cache import archive_name
from modelswitch.agent.plan import STANDIN, Load, Shrink
from modelswitch.agent.slots import Slots
from modelswitch.archive.document import Document
from modelswitch.archive.layout import MANIFEST
from modelswitch.effects import effect
from modelswitch.errors import ModelSwitchError, ServerError

_LOOK_S = 0.2


async def shrink(slots: Slots, step: Shrink, document: Document, lock: asyncio.Lock) -> None:
    """Bring a slot down to its pinned workers; raises what the stand-in failed of.

    What nobody calls by the model's name needs no stand-in: it is only waited for.
    """
    timeout_s = document.recipe.response_timeout_s
    if not step.is_default:
        await slots.drain(step.model, step.label, timeout_s)
        await _end_workers(slots, step)
        return
    standin = step.label + STANDIN
    try:
        await _load(slots, step, standin, document)
        async with lock:
            await slots.server.set_default(step.model, standin)
        await slots.drain(step.model, step.label, timeout_s)
        await _end_workers(slots, step)
        async with lock:
            await slots.server.set_default(step.model, step.label)
    except ModelSwitchError:
        await _put_back(slots, step)
        raise
    await slots.unload(step.model, standin, timeout_s)


async def _load(slots: Slots, step: Shrink, standin: str, document: Document) -> None:
    file = slots.model_store / f"standin-{archive_name(step.slot.digest)}"
    recipe = document.recipe
    await slots.cache.fetch(step.slot.digest)  # which verifies it: it is loaded once more
    try:
        with effect("agent.register", model=step.model, label=standin):
            archive = slots.model_store / archive_name(step.slot.digest)
            await asyncio.to_thread(write_standin, archive, file, standin)
            await slots.server.register(
                step.model,
                standin,
                file.name,
                batch_size=recipe.batch_size,
                max_batch_delay_ms=recipe.max_batch_delay_ms,
                response_timeout_s=recipe.response_timeout_s,
            )
    finally:
        file.unlink(missing_ok=True)  # the server has unpacked it
    started = time.time()
    await slots.server.workers(step.model, standin, step.slot.workers)
    await slots.wait_ready(Load(step.model, standin, step.slot, is_default=False), started)
    await slots.check_golden(step.model, standin, document)


async def _end_workers(slots: Slots, step: Shrink) -> None:
    wanted = step.slot.workers
    with effect("agent.scale", model=step.model, label=step.label, workers=wanted):
        await slots.server.workers(step.model, step.label, wanted)
    deadline = time.monotonic() + slots.timeouts.load_s
    while True:
        served = await slots.server.describe(step.model)
        version = served.versions.get(step.label) if served else None
        if version is not None and version.ready == wanted == len(version.workers):
            return
        if version is None or time.monotonic() > deadline:
            raise ServerError(f"{step.model} {step.label} did not come down to {wanted} workers")
        await asyncio.sleep(_LOOK_S)


async def _put_back(slots: Slots, step: Shrink) -> None:
    """What could not stand in goes, as long as nobody is answered by it."""
    with contextlib.suppress(ModelSwitchError):
        served = await slots.server.describe(step.model)
        if served is not None and served.default != step.label + STANDIN:
            await slots.server.unregister(step.model, step.label + STANDIN)


def write_standin(archive: Path, file: Path, label: str) -> None:
    """A copy of `archive` whose manifest says `label`; its document, and digest, are the same."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            entry = zipfile.ZipInfo(info.filename)
            if info.filename == MANIFEST:
                manifest = json.loads(old.read(info))
                manifest["model"]["modelVersion"] = label
                new.writestr(entry, json.dumps(manifest))
                continue
            entry.file_size = info.file_size  # so that a large one gets its zip64 header
            with old.open(info) as source, new.open(entry, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
