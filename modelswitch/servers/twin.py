"""TwinServer: TorchServe in memory, with its traps, for tests that need thousands of servers.

It shares the contract suite with the real one. Time is counted in ticks: every call is one tick,
and a worker is READY `load_ticks` after it was asked for. Faults are set on its attributes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelswitch.errors import NotFound, ServerConflict, ServerError, ServerUnreachable
from modelswitch.servers.protocol import READY, Answer, ServedModel, ServedVersion, ServedWorker

PROBE_HEADER = "x-modelswitch-probe"
LOADING = "UNLOADING"  # what TorchServe calls a worker that has not loaded yet


@dataclass(slots=True)
class Faults:
    """What goes wrong with a twin. Labels stand for versions of any model."""

    unreachable: bool = False
    slow_s: float = 0.0
    unloadable: set[str] = field(default_factory=set)
    golden_wrong: set[str] = field(default_factory=set)
    most_workers: int = 1024  # more of one version never become READY
    pending: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Archive:
    """What an archive says of itself; `golden` is its request and expected answer."""

    model: str
    label: str
    version: str
    digest: str
    golden: tuple[Any, Any] | None


@dataclass(slots=True)
class _Worker:
    id: int
    loads_at: int


@dataclass(slots=True)
class _Version:
    archive: _Archive
    file: str
    batch_size: int
    workers: list[_Worker] = field(default_factory=list)


@dataclass(slots=True)
class _Model:
    default: str
    versions: dict[str, _Version] = field(default_factory=dict)


class TwinServer:
    """A ModelServer over the archives in `model_store`."""

    def __init__(self, model_store: Path, *, load_ticks: int = 2, worker_bytes: int = 0) -> None:
        self.model_store = model_store
        self.load_ticks = load_ticks
        self.worker_bytes = worker_bytes
        self.faults = Faults()
        self._models: dict[str, _Model] = {}
        self._now = 0
        self._next_worker = 9000

    def restart(self) -> None:
        """Forget everything that was registered, as TorchServe does."""
        self._models.clear()

    async def register(
        self,
        model: str,
        label: str,
        archive: str,
        *,
        batch_size: int = 1,
        max_batch_delay_ms: int = 1,
        response_timeout_s: int = 30,
        timeout_s: float = 300.0,
    ) -> None:
        await self._tick(timeout_s)
        standing = self._models.get(model)
        if standing and label in standing.versions:
            if standing.versions[label].file == archive:
                return
            raise ServerConflict(f"{model} {label} is registered with another archive")
        said = _read_archive(self.model_store / archive)
        if (said.model, said.label) != (model, label):
            raise ServerError(f"{archive} is an archive of {said.model} {said.label}")
        # The first version registered is the default at once, before it has a worker
        served = self._models.setdefault(model, _Model(default=label))
        served.versions[label] = _Version(said, archive, batch_size)

    async def workers(self, model: str, label: str, count: int) -> None:
        await self._tick()
        version = self._get(model, label)
        del version.workers[count:]
        while len(version.workers) < count:
            version.workers.append(_Worker(self._next_worker, self._now + self.load_ticks))
            self._next_worker += 1

    async def describe(self, model: str) -> ServedModel | None:
        await self._tick()
        served = self._models.get(model)
        if served is None:
            return None
        versions = {label: self._served(v) for label, v in served.versions.items()}
        return ServedModel(model, served.default, versions)

    async def models(self) -> tuple[str, ...]:
        await self._tick()
        return tuple(sorted(self._models))

    async def set_default(self, model: str, label: str) -> None:
        await self._tick()
        self._get(model, label)
        self._models[model].default = label

    async def predict(
        self,
        model: str,
        body: bytes,
        *,
        label: str | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        timeout_s: float = 30.0,
    ) -> Answer:
        await self._tick(timeout_s)
        served = self._models.get(model)
        version = served.versions.get(label or served.default) if served else None
        if version is None:
            return _refusal(404, "ModelNotFoundException")
        if not version.workers:
            return _refusal(503, "ServiceUnavailableException")
        await self._wait_until_loaded(version)
        archive = version.archive
        is_probe = PROBE_HEADER in {name.lower() for name in headers or {}}
        name = f"{archive.model}@{archive.version}"
        probe = {"model": name, "digest": archive.digest}
        answer = probe if is_probe else self._answer(archive, body)
        said = {"x-model-version": name, "x-archive-digest": archive.digest}
        return Answer(200, said, json.dumps(answer).encode(), 0.1)

    async def unregister(self, model: str, label: str) -> None:
        await self._tick()
        served = self._models.get(model)
        if served is None or label not in served.versions:
            return
        if served.default == label and len(served.versions) > 1:
            raise ServerError(f"cannot remove default version {label} of {model}")
        del served.versions[label]
        if not served.versions:
            del self._models[model]

    async def load_error(self, model: str, label: str, *, since: float = 0.0) -> str | None:
        await self._tick()
        served = self._models.get(model)
        version = served.versions.get(label) if served else None
        if version is None or label not in self.faults.unloadable:
            return None
        if any(worker.loads_at <= self._now for worker in version.workers):
            return f"Traceback (most recent call last):\nRuntimeError: {label} cannot be loaded"
        return None

    async def ping(self) -> bool:
        try:
            await self._tick()
        except ServerUnreachable:
            return False
        return True

    async def close(self) -> None:
        """Nothing is held open."""

    async def _tick(self, timeout_s: float = 10.0) -> None:
        await asyncio.sleep(min(self.faults.slow_s, timeout_s))
        if self.faults.unreachable:
            raise ServerUnreachable("no server answers: the twin is unreachable")
        if self.faults.slow_s > timeout_s:
            raise ServerUnreachable(f"the twin did not answer within {timeout_s:g} s")
        self._now += 1

    async def _wait_until_loaded(self, version: _Version) -> None:
        """TorchServe queues what comes before a worker has loaded; the client waits."""
        while not any(self._is_ready(version, w) for w in version.workers):
            if version.archive.label in self.faults.unloadable:
                raise ServerUnreachable("the twin has no worker that could answer")
            await self._tick()

    def _is_ready(self, version: _Version, worker: _Worker) -> bool:
        can_load = version.archive.label not in self.faults.unloadable
        return can_load and worker.loads_at <= self._now

    def _get(self, model: str, label: str) -> _Version:
        served = self._models.get(model)
        if served is None or label not in served.versions:
            raise NotFound(f"{model} {label} is not registered")
        return served.versions[label]

    def _served(self, version: _Version) -> ServedVersion:
        can_run = self.faults.most_workers
        ready = [n < can_run and self._is_ready(version, w) for n, w in enumerate(version.workers)]
        return ServedVersion(
            label=version.archive.label,
            archive=version.file,
            workers=tuple(
                ServedWorker(str(w.id), w.id, READY, self.worker_bytes)
                if is_ready
                else ServedWorker(str(w.id), -1, LOADING)
                for w, is_ready in zip(version.workers, ready, strict=True)
            ),
            min_workers=len(version.workers),
            max_workers=len(version.workers),
            batch_size=version.batch_size,
            pending_requests=self.faults.pending.get(version.archive.label, 0),
        )

    def _answer(self, archive: _Archive, body: bytes) -> Any:
        if archive.label in self.faults.golden_wrong:
            return {"predictions": "wrong"}
        if archive.golden and _parse(body) == archive.golden[0]:
            return archive.golden[1]
        return {"predictions": [archive.label]}


def _read_archive(path: Path) -> _Archive:
    """What TorchServe and our handler read of an archive: manifest, document, digest."""
    if not path.is_file():
        raise NotFound(f"{path.name} is not in the model store")
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]
            # The placeholder has none: it is never asked anything.
            is_ours = "modelswitch.json" in archive.namelist()
            text = archive.read("modelswitch.json") if is_ours else b"{}"
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ServerError(f"{path.name} is not an archive: {error}") from error
    document = json.loads(text)
    golden = document.get("golden")
    return _Archive(
        model=manifest["modelName"],
        label=manifest["modelVersion"],
        version=manifest["modelVersion"].partition("-")[0],
        digest="sha256:" + hashlib.sha256(text).hexdigest(),
        golden=(golden["request"], golden["expected"]) if golden else None,
    )


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _refusal(status: int, kind: str) -> Answer:
    body = json.dumps({"code": status, "type": kind, "message": kind}).encode()
    return Answer(status, {"content-type": "application/json"}, body, 0.1)
