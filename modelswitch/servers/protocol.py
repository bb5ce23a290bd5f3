"""ModelServer: what an agent asks of the server beside it, and what it is told.

Every method raises ServerUnreachable when nobody answers (in time), NotFound for a model or
version the server does not know, ServerError for anything else it refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

READY = "READY"


@dataclass(frozen=True, slots=True)
class ServedWorker:
    """One worker process. `pid` is -1 until it was started; `status` is the server's word.

    `memory_bytes`: resident; 0 where it is not known.
    """

    id: str
    pid: int
    status: str
    memory_bytes: int = 0

    @property
    def is_ready(self) -> bool:
        return self.status == READY


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """One registered version. `archive` is the file name it was registered from."""

    label: str
    archive: str
    workers: tuple[ServedWorker, ...] = ()
    min_workers: int = 0
    max_workers: int = 0
    batch_size: int = 1
    pending_requests: int = 0
    loaded_at_startup: bool = False

    @property
    def ready(self) -> int:
        """How many of its workers have loaded it: the only sign that it is loaded."""
        return sum(worker.is_ready for worker in self.workers)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """All versions of one model by label; `default` answers `/predictions/{name}`."""

    name: str
    default: str | None
    versions: Mapping[str, ServedVersion] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a prediction answered. Header names are lower case; `status` is HTTP's."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    latency_ms: float

    @property
    def digest(self) -> str | None:
        """The archive that answered, as it says itself."""
        return self.headers.get("x-archive-digest")

    @property
    def model_version(self) -> str | None:
        return self.headers.get("x-model-version")

    def json(self) -> Any:
        """The body read as JSON; raises ValueError when it isn't."""
        import json

        return json.loads(self.body)


class ModelServer(Protocol):
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
        """Register a file of the model store, by its bare name, without any worker.

        Registering the same archive again does nothing. Raises ServerConflict when the label
        stands there with another archive, ServerError when the file is no archive of
        model and label. What fails leaves nothing half-registered.
        """
        ...

    async def workers(self, model: str, label: str, count: int) -> None:
        """Ask for `count` workers and return at once; `describe` tells when they are READY."""
        ...

    async def describe(self, model: str) -> ServedModel | None:
        """All versions of one model with their workers; None when it is not registered."""
        ...

    async def models(self) -> tuple[str, ...]:
        """The names of all registered models, sorted."""
        ...

    async def set_default(self, model: str, label: str) -> None:
        """Move the pointer. Whether that version can answer is not checked."""
        ...

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
        """One request, on the default path unless `label` says otherwise. Any status returns."""
        ...

    async def unregister(self, model: str, label: str) -> None:
        """Unload one version; fine if it is not there. Requests in flight are lost.

        Raises ServerError for the default while other versions stand.
        """
        ...

    async def load_error(self, model: str, label: str, *, since: float = 0.0) -> str | None:
        """The traceback of the last load that failed after `since` (Unix time), if any did."""
        ...

    async def ping(self) -> bool:
        """Whether the server answers and calls itself healthy."""
        ...

    async def close(self) -> None: ...
