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
from modelswitch.reports import Report, State
from modelswitch.settings import PREFIX, Settings

_HANDED_ON = {PREFIX + "LOG", PREFIX + "DEBUG"}


def agent(settings: Settings, port_base: int, place: int) -> Part:
    """Told everything by its environment, so that it needs no settings file."""
    folders = Folders(settings.state_dir)
    name = ports.server_name(place)
    own = ports.server_ports(port_base, place)
    report = _report_path(settings, name)
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


def is_settling(settings: Settings, name: str) -> bool:
    """Whether that server's agent still loads what its pins ask for."""
    found = _read(_report_path(settings, name))
    return isinstance(found, Report) and any(
        slot.state in (State.ABSENT, State.LOADING)
        for model in found.models.values()
        for slot in model.slots.values()
    )


def _report_path(settings: Settings, name: str) -> Path:
    return settings.fleet_path / "reports" / f"{name}.json"


def _read(path: Path) -> Report | str:
    """The report, or why there is none."""
    try:
        return Report.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return "it has not reported yet"
    except ValidationError as error:
        return f"its report {path} cannot be read: {error.errors()[0]['msg']}"


def _why_not(path: Path, created: float) -> str | None:
    """Of the agent's process. What its server holds is the fleet's to tell, not the stack's."""
    report = _read(path)
    if isinstance(report, str):
        return report
    if report.heartbeat_at.timestamp() < created:
        return "it has not reported since it was started"
    if report.is_silent(datetime.now(UTC)):
        return f"its last report is of {report.heartbeat_at:%H:%M:%S} UTC"
    return None
