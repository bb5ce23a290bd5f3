"""Commands in processes of their own, killed where one says; forked, since a start is slow."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from modelswitch import effects
from modelswitch.fleet import FolderFleet
from modelswitch.ledger import Ledger, open_ledger
from modelswitch.line import Slot
from modelswitch.moves import Intent, Moves
from modelswitch.settings import Settings, Timeouts

TIMEOUTS = Timeouts(load_s=10, prove_s=10, unload_s=2)
WHO = Intent("a crash test")

_processes = multiprocessing.get_context("forkserver")
# What a command needs is imported once, before any is forked.
_processes.set_forkserver_preload([__name__, "modelswitch.ledger.sql", "watchfiles"])


@dataclass(frozen=True)
class Command:
    """One verb on one model of the deployment in `folder`."""

    folder: Path
    verb: str
    model: str
    slot: Slot | None = None

    def run(self, moves: Moves) -> None:
        slot = self.slot
        match self.verb:
            case "stage" if slot:
                moves.stage(self.model, slot, WHO)
            case "promote" if slot:
                moves.promote(self.model, slot, WHO)
            case "retire":
                moves.retire(self.model, slot, WHO)
            case "rollback":
                moves.rollback(self.model, WHO)
            case "break-glass":
                moves.break_glass(self.model, WHO)
            case "lift" if slot:
                moves.lift(self.model, slot.version, WHO)
            case "resume":
                moves.publish()
                moves.conclude(self.model, WHO)


def ledger_of(folder: Path) -> Ledger:
    return open_ledger(f"sqlite:///{folder / 'ledger.db'}", "local")


def moves_of(folder: Path) -> Moves:
    settings = Settings(root=folder, timeouts=TIMEOUTS)
    return Moves(ledger_of(folder), FolderFleet(settings.fleet_path), settings)


def killed_at(command: Command, crash_at: int | Path) -> bool:
    """Run a command in a process of its own; whether it was killed at that boundary.

    With a path it is not killed, and lists its boundaries there. A command that ends otherwise
    than killed or well fails the test.
    """
    child = _processes.Process(target=_child, args=(command, str(crash_at)))
    child.start()
    child.join(60)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise AssertionError(f"{command} did not end")
    assert child.exitcode in (0, -signal.SIGKILL), f"{command} ended with {child.exitcode}"
    return child.exitcode != 0


def _child(command: Command, crash_at: str) -> None:
    os.environ[effects.CRASH_VARIABLE] = crash_at
    command.run(moves_of(command.folder))
