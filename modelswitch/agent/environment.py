"""What the worker beside this agent has: Python, packages, cores, memory."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path

import structlog
from pydantic import BaseModel, ValidationError

from modelswitch.reports import Capacity, Environment

log = structlog.get_logger("modelswitch.agent")


def environment(file: Path | None) -> Callable[[], Environment]:
    """What tells the worker's environment: a file written beside the worker, else our own.

    The file is `{"python": "3.11.7", "packages": {"torch": "2.14.1"}}`. It may appear after us,
    and is read again when it changes.
    """
    return _own if file is None else _File(file)


@cache
def _own() -> Environment:
    """The packages of this interpreter, where it is the worker's too (one image, one venv)."""
    names = importlib.metadata.distributions()
    found = {d.metadata["Name"]: d.version for d in names if d.metadata["Name"]}
    return _environment(platform.python_version(), found)


class _Written(BaseModel):
    python: str
    packages: dict[str, str] = {}


class _File:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: object = None
        self._found = Environment()

    def __call__(self) -> Environment:
        try:
            seen = self._path.stat()
        except OSError:
            return self._found
        mark = seen.st_ino, seen.st_mtime_ns, seen.st_size
        if mark != self._mark:
            self._mark = mark
            try:
                written = _Written.model_validate_json(self._path.read_bytes())
            except (OSError, ValidationError) as error:
                log.warning("agent.environment_unreadable", path=str(self._path), why=str(error))
            else:
                self._found = _environment(written.python, written.packages)
        return self._found


def _environment(python: str, versions: dict[str, str]) -> Environment:
    packages = {name.lower().replace("_", "-"): version for name, version in versions.items()}
    listing = "\n".join(f"{name}=={packages[name]}" for name in sorted(packages))
    return Environment(
        python=python,
        packages=packages,
        packages_sha256=hashlib.sha256(listing.encode()).hexdigest(),
    )


def capacity() -> Capacity:
    """Cores this process may use, memory of the machine in bytes, GPU device files."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Capacity(
        cores=cores or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=len(list(Path("/dev").glob("nvidia[0-9]*"))),
    )
