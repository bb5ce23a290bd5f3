"""One context manager around every effect and every row.

It carries the correlation id, writes the log line, tells the progress, and is the place where
crash tests kill: a boundary lies before and after each effect, found here and not by a list.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import structlog

from modelswitch import logs as logs  # sends structlog's lines to logging

log = structlog.get_logger("modelswitch.effects")

CRASH_VARIABLE = "MODELSWITCH_CRASH_AT"

_correlation: ContextVar[str | None] = ContextVar("correlation_id", default=None)
_boundary_watchers: list[Callable[[str, str], None]] = []
_progress_sinks: list[Callable[[str, dict[str, Any]], None]] = []


def correlation_id() -> str:
    """The id that ties a command, its rows, the agents' work and TorchServe's log together."""
    current = _correlation.get()
    if current is None:
        current = uuid.uuid4().hex[:16]
        _correlation.set(current)
    return current


def set_correlation_id(value: str | None) -> None:
    _correlation.set(value)


@contextmanager
def watching(
    *,
    boundary: Callable[[str, str], None] | None = None,
    progress: Callable[[str, dict[str, Any]], None] | None = None,
) -> Iterator[None]:
    """See every boundary (name, "before" | "after") or every step's progress meanwhile."""
    if boundary:
        _boundary_watchers.append(boundary)
    if progress:
        _progress_sinks.append(progress)
    try:
        yield
    finally:
        if boundary:
            _boundary_watchers.remove(boundary)
        if progress:
            _progress_sinks.remove(progress)


@contextmanager
def effect(name: str, **facts: Any) -> Iterator[None]:
    """Around one effect. `name` is its kind (`ledger.append`, `fleet.publish`, …)."""
    correlation_id()
    _boundary(name, "before")
    tell(name, **facts)
    started = time.perf_counter()
    try:
        yield
    except Exception as error:
        log.warning(name, **facts, correlation_id=_correlation.get(), failed=str(error))
        raise
    ms = round((time.perf_counter() - started) * 1000, 1)
    log.info(name, **facts, correlation_id=_correlation.get(), ms=ms)
    _boundary(name, "after")


def tell(name: str, **facts: Any) -> None:
    """Tell whoever shows progress; costs nothing when nobody does."""
    for sink in _progress_sinks:
        sink(name, facts)


_count = 0


def _boundary(name: str, side: str) -> None:
    global _count
    for watcher in _boundary_watchers:
        watcher(name, side)
    crash_at = os.environ.get(CRASH_VARIABLE)
    if crash_at is None:
        return
    _count += 1
    if crash_at == str(_count):
        os.kill(os.getpid(), signal.SIGKILL)
    if crash_at.startswith("/"):  # a file to list the boundaries in, for the test that kills
        with Path(crash_at).open("a", encoding="utf-8") as out:
            out.write(f"{_count} {name} {side}\n")
