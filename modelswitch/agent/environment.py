"""What the worker beside this agent has: Python, packages, cores, memory."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

from modelswitch.reports import Capacity, Environment


def environment() -> Environment:
    """The packages of this interpreter, which is the worker's too (one image, one venv)."""
    packages: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            packages[name.lower().replace("_", "-")] = distribution.version
    listing = "\n".join(f"{name}=={packages[name]}" for name in sorted(packages))
    return Environment(
        python=platform.python_version(),
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
