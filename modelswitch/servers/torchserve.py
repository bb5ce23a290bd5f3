"""TorchServe 0.12 over HTTP: management and inference, its odd answers turned into our errors.

Only query parameters are sent: a JSON body without `max_batch_delay` would set it to -10000.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from modelswitch.effects import correlation_id
from modelswitch.errors import NotFound, ServerConflict, ServerError, ServerUnreachable
from modelswitch.servers.protocol import Answer, ServedModel, ServedVersion, ServedWorker
from modelswitch.servers.workerlog import worker_error
from modelswitch.servers.workermemory import worker_memory

CALL_TIMEOUT_S = 10.0
PING_TIMEOUT_S = 2.0
PAGE = 100

T = TypeVar("T")

# Whose archive it was: said only in the text of a success or of a 409. Quotes come escaped.
_REGISTERED = re.compile(r'Model \\"(?P<model>[^"\\]+)\\" Version: (?P<label>\S+) registered')
_STANDS = re.compile(r"version (?P<label>\S+) is already registered for model (?P<model>[^\s\"]+)")


class TorchServe:
    """A ModelServer. `log_dir` is where TorchServe writes model_log.log, if it can be read."""

    def __init__(
        self, inference_url: str, management_url: str, *, log_dir: Path | None = None
    ) -> None:
        self.inference_url = inference_url.rstrip("/")
        self.management_url = management_url.rstrip("/")
        self.log_dir = log_dir
        # trust_env: a proxy of the environment must not stand before a server on loopback
        self._http = httpx2.AsyncClient(timeout=CALL_TIMEOUT_S, trust_env=False)

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
        params = {
            "url": archive,
            "initial_workers": 0,
            "synchronous": "true",
            "batch_size": batch_size,
            "max_batch_delay": max_batch_delay_ms,
            "response_timeout": response_timeout_s,
        }
        # A look first: every POST that ends in 409 leaves an extracted copy behind
        if await self._is_registered(model, label, archive):
            return
        try:
            answer = await self._manage("POST", "/models", params=params, timeout_s=timeout_s)
        except ServerUnreachable:
            # It may have taken effect: what nobody confirmed must not stay
            await self._forget(model, label)
            raise
        said = _REGISTERED.search(answer.text) or _STANDS.search(answer.text)
        if said and (said["model"], said["label"]) != (model, label):
            if answer.is_success:
                await self._forget(said["model"], said["label"])
            raise ServerError(
                f"{archive} was not registered: it is an archive of {said['model']} "
                f"{said['label']}, not of {model} {label}",
                next="build the archive again: modelswitch build",
            )
        if answer.status_code == 409 and await self._is_registered(model, label, archive):
            return  # somebody else did, after our look
        if not answer.is_success:
            await self._forget(model, label)
            _refuse(answer, f"{model} {label} was not registered from {archive}")

    async def workers(self, model: str, label: str, count: int) -> None:
        params = {"min_worker": count, "max_worker": count, "synchronous": "false"}
        answer = await self._manage("PUT", _path(model, label), params=params)
        if not answer.is_success:
            _refuse(answer, f"{model} {label} was not scaled to {count} workers")

    async def describe(self, model: str) -> ServedModel | None:
        # /all says which versions there are, the bare name says which one is the default
        every, default = await asyncio.gather(
            self._manage("GET", f"{_path(model)}/all"), self._manage("GET", _path(model))
        )
        if every.status_code == 404:
            return None
        if not every.is_success:
            _refuse(every, f"{model} could not be described")
        if not default.is_success and default.status_code != 404:
            _refuse(default, f"the default of {model} could not be read")
        versions = {v.label: v for v in (d.served() for d in _read(_DESCRIPTIONS, every))}
        named = _read(_DESCRIPTIONS, default) if default.is_success else []
        return ServedModel(model, named[0].version if named else None, versions)

    async def models(self) -> tuple[str, ...]:
        names: set[str] = set()
        params: dict[str, Any] = {"limit": PAGE}
        while True:
            answer = await self._manage("GET", "/models", params=params)
            if not answer.is_success:
                _refuse(answer, "the models could not be listed")
            page = _read(_PAGE, answer)
            names.update(entry.name for entry in page.models)
            if page.next_page_token is None:
                return tuple(sorted(names))
            params["next_page_token"] = page.next_page_token

    async def set_default(self, model: str, label: str) -> None:
        answer = await self._manage("PUT", f"{_path(model, label)}/set-default")
        if not answer.is_success:
            _refuse(answer, f"{model} {label} was not made the default")

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
        path = f"/predictions/{quote(model)}" + (f"/{quote(label)}" if label else "")
        sent = {"Content-Type": content_type, **(headers or {})}
        url = self.inference_url + path
        started = time.perf_counter()
        answer = await self._call("POST", url, timeout_s=timeout_s, content=body, headers=sent)
        ms = (time.perf_counter() - started) * 1000
        return Answer(answer.status_code, dict(answer.headers), answer.content, ms)

    async def unregister(self, model: str, label: str) -> None:
        answer = await self._manage("DELETE", _path(model, label))
        if answer.status_code != 404 and not answer.is_success:
            _refuse(answer, f"{model} {label} was not unloaded")

    async def load_error(self, model: str, label: str, *, since: float = 0.0) -> str | None:
        if self.log_dir is None:
            return None
        return await asyncio.to_thread(worker_error, self.log_dir, model, label, since=since)

    async def ping(self) -> bool:
        try:
            answer = await self._call("GET", f"{self.inference_url}/ping", timeout_s=PING_TIMEOUT_S)
        except ServerUnreachable:
            return False
        return answer.is_success

    async def close(self) -> None:
        await self._http.aclose()

    async def _is_registered(self, model: str, label: str, archive: str) -> bool:
        """Raises ServerConflict when the label stands there with another archive."""
        served = await self.describe(model)
        version = served.versions.get(label) if served else None
        if version is not None and version.archive != archive:
            raise self._conflict(model, label, version.archive)
        return version is not None

    def _conflict(self, model: str, label: str, archive: str) -> ServerConflict:
        return ServerConflict(
            f"{model} {label} is registered at {self.management_url} with another archive "
            f"({archive})",
            next="unload that version first; its agent removes what no pin asks for",
        )

    async def _forget(self, model: str, label: str) -> None:
        """Leave nothing of a failed registration; whoever is away has nothing to forget."""
        try:
            await self._manage("DELETE", _path(model, label))
        except ServerUnreachable:
            return

    async def _manage(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> httpx2.Response:
        return await self._call(
            method, self.management_url + path, timeout_s=timeout_s, params=params
        )

    async def _call(
        self, method: str, url: str, *, timeout_s: float, **kwargs: Any
    ) -> httpx2.Response:
        headers = {"X-Correlation-Id": correlation_id(), **kwargs.pop("headers", {})}
        try:
            return await self._http.request(
                method, url, timeout=timeout_s, headers=headers, **kwargs
            )
        except httpx2.TimeoutException as error:
            raise ServerUnreachable(
                f"{method} {url} was not answered within {timeout_s:g} s",
                next="see the server's log: modelswitch logs",
            ) from error
        except httpx2.TransportError as error:
            raise ServerUnreachable(
                f"no server answers at {url} ({error or type(error).__name__})",
                next="start it with: modelswitch up",
            ) from error


class _Open(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class _Worker(_Open):
    id: str
    pid: int = -1
    status: str
    memory: int = Field(0, alias="memoryUsage")

    def served(self) -> ServedWorker:
        memory = self.memory or (worker_memory(self.pid) if self.pid > 0 else 0)
        return ServedWorker(self.id, self.pid, self.status, memory)


class _Queue(_Open):
    pending: int = Field(0, alias="pendingRequests")


class _Description(_Open):
    version: str = Field(alias="modelVersion")
    url: str = Field(alias="modelUrl")
    min_workers: int = Field(alias="minWorkers")
    max_workers: int = Field(alias="maxWorkers")
    batch_size: int = Field(alias="batchSize")
    at_startup: bool = Field(False, alias="loadedAtStartup")
    workers: tuple[_Worker, ...] = ()
    queue: _Queue = Field(_Queue(pendingRequests=0), alias="jobQueueStatus")

    def served(self) -> ServedVersion:
        return ServedVersion(
            label=self.version,
            archive=self.url,
            workers=tuple(worker.served() for worker in self.workers),
            min_workers=self.min_workers,
            max_workers=self.max_workers,
            batch_size=self.batch_size,
            pending_requests=self.queue.pending,
            loaded_at_startup=self.at_startup,
        )


class _Named(_Open):
    name: str = Field(alias="modelName")


class _Page(_Open):
    models: tuple[_Named, ...] = ()
    next_page_token: str | None = Field(None, alias="nextPageToken")


_DESCRIPTIONS: TypeAdapter[list[_Description]] = TypeAdapter(list[_Description])
_PAGE: TypeAdapter[_Page] = TypeAdapter(_Page)


def _read(adapter: TypeAdapter[T], answer: httpx2.Response) -> T:
    try:
        return adapter.validate_json(answer.content)
    except ValidationError as error:
        raise ServerError(
            f"{answer.request.url} answered what TorchServe 0.12 would not: {answer.text[:200]!r}",
            next="check that this address is TorchServe's management interface",
        ) from error


def _path(model: str, label: str | None = None) -> str:
    return f"/models/{quote(model)}" + (f"/{quote(label)}" if label else "")


_ADVICE = {
    400: "if its token authorization is on, start it with disable_token_authorization=true",
    405: "start it with enable_model_api=true",
}


def _refuse(answer: httpx2.Response, what: str) -> NoReturn:
    """Raise our error for an answer that is not a success."""
    try:
        body = answer.json()
        said = str(body["message"])
        kind = str(body["type"])
    except (ValueError, KeyError, TypeError):
        said, kind = answer.text[:200].strip(), ""
    message = f"{what}: {answer.request.url.host}:{answer.request.url.port} answered "
    message += f"{answer.status_code} {said}"
    if answer.status_code == 404:
        raise NotFound(message)
    advice = _ADVICE.get(answer.status_code) if kind != "InvalidModelException" else None
    raise ServerError(message, next=advice)
