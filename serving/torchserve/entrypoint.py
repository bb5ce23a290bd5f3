"""What the image of TorchServe starts: it tells the agent what workers have, and becomes the JVM.

Imports nothing but `jvm.py` and `worker.py` beside it and what is in Python. Folders and addresses
come from the environment, see the Dockerfile; whatever cannot work is said here, in one line,
before Java starts.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from pathlib import Path

import jvm
import worker

HERE = Path(__file__).resolve().parent
ENVIRONMENT_FILE = "MODELSWITCH_SERVER__ENVIRONMENT_FILE"
# Of cgroups version 2, and of version 1
MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
HEAP_BYTES = 512 << 20
# Workers hold the models, so the JVM gets the smaller part of a small container
HEAP_SHARE = 4


def main() -> None:
    work = Path.cwd()
    temporary, logs, told = (
        Path(os.environ[name]) for name in ("TMPDIR", "LOG_LOCATION", ENVIRONMENT_FILE)
    )
    for folder in (work, temporary, logs, told.parent):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SystemExit(
                f"user {os.getuid()} cannot write into {folder}; "
                "mount a volume there that belongs to that user"
            )
    # What was killed in this container before leaves what it had extracted: it may be gigabytes
    shutil.rmtree(temporary / "models", ignore_errors=True)
    write_environment(told)
    argv = command(work, temporary, memory_limit())
    os.execv(argv[0], argv)  # noqa: S606 - the JVM gets our place, and the signals


def write_environment(file: Path) -> None:
    """Python's version and the packages' of this interpreter, which is the workers'; atomically."""
    found = importlib.metadata.distributions()
    packages = {d.metadata["Name"]: d.version for d in found if d.metadata["Name"]}
    text = json.dumps({"python": platform.python_version(), "packages": packages}, indent=1)
    unfinished = file.with_name(f".{file.name}.new")
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.chmod(0o644)  # whatever the umask: the agent reads it
    unfinished.replace(file)


def command(work: Path, temporary: Path, memory_bytes: int | None) -> tuple[str, ...]:
    """The JVM's command line; JVM_OPTIONS stand last, over ours and over the file's `vmargs`."""
    packages = jvm.find_packages()
    if packages is None:
        raise SystemExit("TorchServe is not installed here; build the image again")
    config = HERE / "config.properties"
    python = work / "python"
    python.write_text(worker.launcher(sys.executable), encoding="utf-8")
    python.chmod(0o755)
    return jvm.command(
        java=jvm.java(),
        packages=packages,
        python=str(python),
        config=config,
        log_config=HERE / "log4j2.xml",
        store=Path(os.environ["TS_MODEL_STORE"]),
        temporary=str(temporary),
        vm_arguments=[
            *jvm.vm_arguments(config),
            f"-Xmx{heap_bytes(memory_bytes)}",
            "-XX:+ExitOnOutOfMemoryError",  # what is half dead would not be started again
            *os.environ.get("JVM_OPTIONS", "").split(),
        ],
    )


def heap_bytes(memory_bytes: int | None) -> int:
    """The heap for a container that may use `memory_bytes`; None: as much as there is."""
    return HEAP_BYTES if memory_bytes is None else min(HEAP_BYTES, memory_bytes // HEAP_SHARE)


def memory_limit() -> int | None:
    for file in MEMORY_LIMITS:
        try:
            text = file.read_text(encoding="ascii").strip()
        except OSError:
            continue
        return int(text) if text.isdecimal() else None  # "max"
    return None


if __name__ == "__main__":
    main()
