"""The keeper: starts again what dies, and keeps logs under their limit. A member of the stack."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from modelswitch import logs
from modelswitch.errors import ModelSwitchError
from modelswitch.local import processes
from modelswitch.local.addresses import State, read_state
from modelswitch.local.folders import Folders
from modelswitch.local.part import Part, clean_environment
from modelswitch.settings import Settings

if TYPE_CHECKING:
    from modelswitch.local.stack import Stack

NAME = "keeper"
SIGN_FILE = "keeper.alive"  # touched at every look
LOOK_EVERY_S = 0.5
LIMIT_LOGS_EVERY_S = 60.0
SHORTEST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0

log = structlog.get_logger("modelswitch.local.keeper")


def part(settings: Settings, *, after: Sequence[str]) -> Part:
    """Started last: what it would start again runs by then."""
    folders = Folders(settings.state_dir)
    sign = folders.state / SIGN_FILE
    return Part(
        name=NAME,
        argv=(sys.executable, "-m", "modelswitch.local.keeper"),
        env=clean_environment(),
        cwd=folders.state,
        log=folders.logs / "keeper.log",
        address=str(folders.state),
        why_not=lambda created: _why_not(sign, created),
        after=tuple(after),
        # Over a pipe: settings may hold a database's password
        stdin=settings.model_dump_json(exclude_none=True).encode()
        + b"\n"
        + str(settings.root).encode(),
    )


def keep(stack: Stack) -> None:
    """Until the stack is stopped: start again what has died.

    What does not come up is tried again after a pause that doubles, up to a minute.
    """
    pause_s = SHORTEST_PAUSE_S
    limited = time.monotonic()
    while (state := read_state(stack.settings)) is not None:
        (stack.folders.state / SIGN_FILE).touch()
        time.sleep(LOOK_EVERY_S)
        if time.monotonic() - limited > LIMIT_LOGS_EVERY_S:
            limited = time.monotonic()
            for path in stack.folders.logs.glob("*.log"):
                processes.limit_log(path)
        if all(_runs(name, state) for name in state.names):
            continue
        try:
            log.warning("stack.healed", parts=stack.heal())
            pause_s = SHORTEST_PAUSE_S
        except ModelSwitchError as error:
            log.warning("stack.heal", failed=error.message, again_in_s=pause_s)
            time.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)


def _runs(name: str, state: State) -> bool:
    member = state.members.get(name)
    return member is not None and processes.find(member.pid, member.created) is not None


def _why_not(sign: Path, created: float) -> str | None:
    has_looked = sign.exists() and sign.stat().st_mtime >= created
    return None if has_looked else "it has not looked at the stack yet"


def main() -> None:
    from modelswitch.local.stack import Stack

    logs.configure(style="json", level="INFO")
    document, _, root = sys.stdin.read().partition("\n")
    settings = Settings.model_validate_json(document).model_copy(update={"root": Path(root)})
    keep(Stack(settings))


if __name__ == "__main__":
    main()
