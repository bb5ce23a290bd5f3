"""The verb that shows logs: a version's workers', or where each log is."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import rich_click as click

from modelswitch.cli.output import Result, local_time, utc_time
from modelswitch.cli.session import Session
from modelswitch.cli.verbs import Verb, complete_model
from modelswitch.errors import NotFound

if TYPE_CHECKING:
    from modelswitch.fleet.kubernetes import KubernetesFleet

_TAIL_BYTES = 200_000


@click.command("logs", cls=Verb, panel="Looking")
@click.argument("ref", required=False, shell_complete=complete_model)
@click.option("--server", metavar="NAME", help="Of one server only.")
@click.option("--lines", type=click.IntRange(min=1), help="How many of each; 50, or 5 without REF.")
@click.pass_obj
def logs(session: Session, ref: str | None, server: str | None, lines: int | None) -> Result:
    """What the workers of NAME or NAME@VERSION printed; without it, each log and its end."""
    if session.settings.fleet.kind == "kubernetes":
        from modelswitch.cli.pod_logs import pod_logs

        return pod_logs(session, cast("KubernetesFleet", session.switch.fleet), ref, server, lines)
    folders = _folders(session)
    if server is not None and server not in folders:
        raise NotFound(
            f"no server {server!r} keeps its logs here", next=f"known: {', '.join(folders)}"
        )
    wanted = {server: folders[server]} if server else folders
    if ref is None:
        return _files(session, wanted, server, lines or 5)
    return _workers(session, ref, wanted, lines or 50)


def _folders(session: Session) -> dict[str, Path]:
    """Where each server's TorchServe logs, as far as this machine knows."""
    from modelswitch.local.folders import Folders

    settings = session.settings
    own = Folders(settings.state_dir)
    found = {s.name: own.server_logs(s.name) for s in session.switch.addresses.servers}
    if settings.server.log_dir:
        found[settings.server.name] = settings.server.log_dir
    return found


def _workers(session: Session, ref: str, folders: dict[str, Path], limit: int) -> Result:
    from modelswitch.line import version_of
    from modelswitch.refs import ModelRef, parse_ref
    from modelswitch.servers.workerlog import worker_lines

    wanted = parse_ref(ref)
    version = None if wanted == ModelRef(wanted.name) else session.switch.resolve(wanted)
    data: list[dict[str, Any]] = []
    show: list[str] = []
    for name, folder in folders.items():
        lines = [
            line
            for line in worker_lines(folder, wanted.name)
            if version in (None, version_of(line.label))
            and wanted.digest8 in (None, line.label.partition("-")[2])
        ][-limit:]
        for line in lines:
            at = datetime.fromtimestamp(line.at, UTC)
            data.append(
                {
                    "server": name,
                    "at": utc_time(at),
                    "worker": line.worker,
                    "label": line.label,
                    "text": line.text,
                }
            )
            show.append(f"{name} {local_time(at)} {line.label} {line.text}")
    if not show:
        where = ", ".join(str(folder) for folder in folders.values())
        return Result(data, talk=[f"no worker of {ref} has printed anything ({where})"])
    return Result(data, show)


def _files(session: Session, folders: dict[str, Path], server: str | None, limit: int) -> Result:
    from modelswitch.local.folders import Folders

    files = sorted(Folders(session.settings.state_dir).logs.glob("*.log"))
    if server is not None:
        files = [file for file in files if file.stem.endswith(f"-{server}")]
    for folder in folders.values():
        files += sorted(folder.glob("*.log"))
    data = [{"log": str(file), "lines": _tail(file, limit)} for file in files if file.is_file()]
    show = []
    for entry in data:
        show += [f"{entry['log']}", *(f"  {line}" for line in entry["lines"])]
    return Result(data, show, talk=[] if data else ["there are no logs here: modelswitch up"])


def _tail(file: Path, limit: int) -> list[str]:
    try:
        with file.open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - _TAIL_BYTES))
            text = log.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return text.splitlines()[-limit:]


VERBS = (logs,)
