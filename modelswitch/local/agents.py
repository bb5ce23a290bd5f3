"""The agent beside each TorchServe: healthy when its report is fresh."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from modelswitch.local import ports
from modelswitch.local.folders import Folders
from modelswitch.local.part import Part, clean_environment
from modelswitch.reports import Report
from modelswitch.settings import PREFIX, Settings

_HANDED_ON = {PREFIX + "LOG", PREFIX + "DEBUG"}


def agent(settings: Settings, port_base: int, place: int) -> Part:
    """Told everything by its environment, so that it needs no settings file."""
    folders = Folders(settings.state_dir)
    name = ports.server_name(place)
    own = ports.server_ports(port_base, place)
    report = settings.fleet_path / "reports" / f"{name}.json"
    told = {
        "DEPLOYMENT": settings.deployment,
        "STORE_URL": settings.store,
        "FLEET__KIND": settings.fleet.kind,
        "FLEET__PATH": settings.fleet_path,
        "LOCAL__STATE_DIR": settings.state_dir,
        "SERVER__NAME": name,
        "SERVER__POOL": settings.server.pool,
        "SERVER__INFERENCE_URL": own.inference_url,
        "SERVER__MANAGEMENT_URL": own.management_url,
        "SERVER__MODEL_STORE": folders.model_store(name),
        "SERVER__LOG_DIR": folders.server_logs(name),
        "TIMEOUTS__LOAD_S": settings.timeouts.load_s,
        "TIMEOUTS__PROVE_S": settings.timeouts.prove_s,
        "TIMEOUTS__UNLOAD_S": settings.timeouts.unload_s,
    }
    return Part(
        name=f"agent-{name}",
        argv=(sys.executable, "-m", "modelswitch", "agent"),
        env=clean_environment()
        | {k: v for k, v in os.environ.items() if k in _HANDED_ON}
        | {PREFIX + key: str(value) for key, value in told.items()},
        cwd=folders.server(name),
        log=folders.logs / f"agent-{name}.log",
        address=str(report),
        why_not=lambda created: _why_not(report, created),
        after=(f"torchserve-{name}",),
    )


def _why_not(path: Path, created: float) -> str | None:
    try:
        report = Report.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return "it has not reported yet"
    except ValidationError as error:
        return f"its report {path} cannot be read: {error.errors()[0]['msg']}"
    if report.heartbeat_at.timestamp() < created:
        return "it has not reported since it was started"
    if report.is_silent(datetime.now(UTC)):
        return f"its last report is of {report.heartbeat_at:%H:%M:%S}"
    return None if report.healthy else report.error or "it reports that it is not healthy"
