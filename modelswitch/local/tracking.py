"""MLflow's server: one worker, on loopback, artifacts through itself into the state folder."""

from __future__ import annotations

import sys

from modelswitch.local import ports
from modelswitch.local.folders import Folders
from modelswitch.local.part import Part, clean_environment, why_no_answer

NAME = "mlflow"


def tracking(folders: Folders, port_base: int, *, has_postgresql: bool) -> Part:
    """On the stack's PostgreSQL, or on SQLite in a file of its own when that runs elsewhere."""
    url = ports.tracking_url(port_base)
    backend = (
        folders.database_url if has_postgresql else f"sqlite:///{folders.mlflow / 'mlflow.db'}"
    )
    artifacts = folders.mlflow / "artifacts"
    return Part(
        name=NAME,
        argv=(
            *(sys.executable, "-m", "mlflow", "server"),
            *("--host", ports.LOOPBACK, "--port", str(ports.tracking_port(port_base))),
            *("--workers", "1", "--artifacts-destination", artifacts.as_uri()),
            *("--uvicorn-opts", "--no-access-log"),
        ),
        env={
            **clean_environment(),
            # Not among the arguments: everybody can read those
            "MLFLOW_BACKEND_STORE_URI": backend,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
        cwd=folders.mlflow,
        log=folders.logs / "mlflow.log",
        address=url,
        why_not=lambda _: why_no_answer(f"{url}/health"),
        ports=(ports.tracking_port(port_base),),
        after=("postgresql",) if has_postgresql else (),
        prepare=lambda: artifacts.mkdir(parents=True, exist_ok=True),
        deadline_s=120.0,
    )
