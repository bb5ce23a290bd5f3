"""A part of the stack: what is started, where it answers, and how one sees that it is healthy."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, Signals

# What a process of the stack must not inherit: another stack's settings, and secrets that a
# worker, which runs the archives' code, has no need of.
_KEPT_AWAY = (
    "MODELSWITCH_",
    "MLFLOW_",
    "_MLFLOW_",
    "PG",
    "TS_",
    "LOG_LOCATION",
    "METRICS_LOCATION",
)


@dataclass(frozen=True, slots=True)
class Part:
    """One process. `why_not` tells what it lacks to be healthy, or None when it is.

    `why_not` is handed the Unix time at which the process was created. `after` names the parts
    that must be healthy before it is started; `prepare` runs just before.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    address: str
    why_not: Callable[[float], str | None]
    ports: tuple[int, ...] = ()
    after: tuple[str, ...] = ()
    prepare: Callable[[], None] = lambda: None
    user: str | None = None
    stdin: bytes = b""
    stop_by: Signals = SIGTERM
    deadline_s: float = 60.0


def clean_environment() -> dict[str, str]:
    """Our own environment without what a process of the stack must not inherit."""
    return {k: v for k, v in os.environ.items() if not k.startswith(_KEPT_AWAY)}


def why_no_answer(url: str) -> str | None:
    """None when a GET of `url` answers 200 within a second or two."""
    import httpx

    try:
        answer = httpx.get(url, timeout=2.0, trust_env=False)
    except httpx.HTTPError as error:
        return f"{url} does not answer ({error or type(error).__name__})"
    return None if answer.is_success else f"{url} answers {answer.status_code}"
