"""What an agent reports about its server: read by commands, by `status` and by `diff`.

Unknown keys are ignored, so that an older command can read a newer agent's report.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat

SILENT_AFTER_S = 10.0  # a heartbeat older than this: the server counts as down


def told_at(at: datetime) -> datetime:
    """`at`; raises ValueError for times so far off that no other zone can tell them."""
    if not 1970 <= at.year <= 9000:
        raise ValueError(f"{at.isoformat()} is no time of ours")
    return at


Moment = Annotated[AwareDatetime, AfterValidator(told_at)]


class _Open(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class State(enum.StrEnum):
    """READY: its workers run. PROVEN: its golden request was answered right too."""

    ABSENT = "absent"
    LOADING = "loading"
    READY = "ready"
    PROVEN = "proven"
    FAILED = "failed"
    UNLOADING = "unloading"


class SlotReport(_Open):
    """`memory_bytes`: the most that one worker of it took so far; None where nobody can tell."""

    state: State
    workers: int = 0
    error: str | None = None
    memory_bytes: int | None = None


class Proof(_Open):
    """What the default path answered: the digest it named, when, and in how long."""

    digest: str
    at: Moment
    latency_ms: FiniteFloat | None = None  # not told in a pod's condition of what is long proven


class ModelReport(_Open):
    default: str | None = None
    proof: Proof | None = None
    error: str | None = None
    slots: dict[str, SlotReport] = {}

    def slot(self, label: str) -> SlotReport:
        return self.slots.get(label, SlotReport(state=State.ABSENT))


class Foreign(_Open):
    """Something on the server that no pin asks for. `kept` models are left alone."""

    model: str
    label: str | None = None
    kept: bool = True
    why: str | None = None


class Environment(_Open):
    python: str = ""
    packages_sha256: str = ""
    packages: dict[str, str] = {}


class Capacity(_Open):
    cores: int = 0
    memory_bytes: int = 0
    gpus: int = 0


class Report(_Open):
    schema_: Literal[1] = Field(1, alias="schema")
    server: str
    pool: str = "default"
    boot_id: str
    at: Moment
    heartbeat_at: Moment
    generation: int = 0
    epoch: str = "main"
    pins_sha256: str = ""
    correlation_id: str | None = None
    agent: str = ""
    pins_schema: int = 1
    healthy: bool = True
    error: str | None = None
    inference_url: str | None = None
    env: Environment = Environment()
    capacity: Capacity = Capacity()
    models: dict[str, ModelReport] = {}
    foreign: tuple[Foreign, ...] = ()

    def is_silent(self, now: datetime) -> bool:
        return (now - self.heartbeat_at).total_seconds() > SILENT_AFTER_S

    @property
    def why_silent(self) -> str:
        """What is said of a silent server: one that was stopped, or is unreadable, has said it."""
        if self.heartbeat_at.timestamp() <= 0 and self.error:
            return self.error
        return f"no heartbeat since {self.heartbeat_at.isoformat(timespec='seconds')}"

    def slot(self, model: str, label: str) -> SlotReport:
        return self.models.get(model, ModelReport()).slot(label)

    def is_warm(self, model: str, label: str, workers: int = 1) -> bool:
        slot = self.slot(model, label)
        return slot.state is State.PROVEN and slot.workers >= workers

    def proves(self, model: str, label: str, digest: str) -> bool:
        """The default is `label`, and its own path answered with `digest`."""
        found = self.models.get(model)
        return (
            found is not None
            and found.default == label
            and found.proof is not None
            and found.proof.digest == digest
        )
