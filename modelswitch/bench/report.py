"""What was measured, at how many clients, of what, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SLA_PERCENTILE = 95


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: numbers of clients, each for `seconds`, after at most `warm_up_s`."""

    clients: tuple[int, ...] = (1, 2, 4, 8, 16)
    seconds: float = 5.0
    warm_up_s: float = 15.0
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Subject:
    """What is asked, where, with what. None is what is not known.

    `threads` are a worker's; `cores` the server's machine's. `body_from`: `golden request`, or a
    file. `metrics_url`: TorchServe's metrics address.
    """

    model: str
    version: str
    label: str
    digest: str
    url: str
    workers: int
    body_from: str
    metrics_url: str | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    threads: int | None = None
    cores: int | None = None
    sla_ms: float | None = None

    @property
    def name(self) -> str:
        return f"{self.model}@{self.version}"


@dataclass(frozen=True, slots=True)
class Point:
    """One number of clients. Times in milliseconds, of right answers only.

    `queue_ms`, `worker_ms`: TorchServe's own means, waiting (for a batch to fill, too) and in the
    worker; `rest_ms` is what remains of the callers' mean: HTTP, the network, the client. None
    where no metrics were read. `client_cores`: CPU seconds a second that the clients took.
    `machine_cpu`: the busy share of this machine, where the server is on it.
    """

    clients: int
    seconds: float
    requests: int
    throughput: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    errors: Mapping[str, int]
    queue_ms: float | None
    worker_ms: float | None
    rest_ms: float | None
    client_cores: float
    machine_cpu: float | None
    others: int = 0

    @property
    def failed(self) -> int:
        return sum(self.errors.values())


@dataclass(frozen=True, slots=True)
class Sla:
    """`holds_up_to`: the most clients of which each fewer was answered in time; None: not one."""

    ms: float
    percentile: int
    holds_up_to: int | None
    fails_at: int | None


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What to try next; as it is where nothing speaks for a change. `why` are sentences."""

    workers: int
    batch_size: int | None
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    subject: Subject
    plan: Plan
    points: tuple[Point, ...]
    sla: Sla | None
    suggestion: Suggestion
    notes: tuple[str, ...] = ()
    body_bytes: int = 0
    machine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> dict[str, Any]:
        """For JSON: milliseconds to the microsecond, and no more."""
        found = asdict(self)
        found["points"] = [
            {key: round(v, 3) if isinstance(v, float) else v for key, v in point.items()}
            for point in found["points"]
        ]
        return found

    def draw(self, path: Path) -> None:
        """Write the picture; raises UsageError when that cannot be."""
        from modelswitch.bench.picture import draw

        draw(self, path)
