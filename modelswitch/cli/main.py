"""The program: the group of all verbs, and the one boundary where errors become messages."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any

import rich_click as click
from click.exceptions import Exit, NoArgsIsHelpError

from modelswitch import __version__
from modelswitch.cli import (
    agent,
    bench,
    books,
    catalog,
    completion,
    doctor,
    engines,
    logs,
    moves,
    predict,
    scale,
    stack,
)
from modelswitch.cli.output import print_envelope, say
from modelswitch.cli.session import Session
from modelswitch.cli.verbs import Verbs, name_of
from modelswitch.errors import ModelSwitchError

PROGRAM = "modelswitch"
COMPLETION_VARIABLE = "_MODELSWITCH_COMPLETE"
INTERRUPTED = 130
_LOOK_S = 2.0


@click.group(
    PROGRAM,
    cls=Verbs,
    no_args_is_help=True,
    topics=("Stack", "Models", "Moves", "Looking"),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """Takes a model version from an MLflow registry to TorchServe and back, provably."""


for _room in (
    stack,
    catalog,
    engines,
    moves,
    scale,
    predict,
    bench,
    books,
    logs,
    doctor,
    agent,
    completion,
):
    for _verb in _room.VERBS:
        cli.add_command(_verb)


def run(argv: Sequence[str] | None = None, *, session: Session | None = None) -> int:
    """Run one command line; returns its exit code and raises nothing."""
    argv = list(sys.argv[1:] if argv is None else argv)
    session = session or Session()
    session.wants_json = "--json" in argv[: argv.index("--")] if "--" in argv else "--json" in argv
    if COMPLETION_VARIABLE in os.environ:
        from click.shell_completion import shell_complete

        asked = os.environ[COMPLETION_VARIABLE]
        return shell_complete(cli, {"obj": session}, PROGRAM, COMPLETION_VARIABLE, asked)
    try:
        with cli.make_context(PROGRAM, argv, obj=session) as ctx:
            cli.invoke(ctx)
    except Exit as ended:  # --help and --version
        return ended.exit_code
    except click.ClickException as error:
        return _usage(session, error)
    except ModelSwitchError as error:
        return _failed(session, error.exit, error.code, error.message, error.next)
    except (KeyboardInterrupt, click.Abort):
        return _interrupted(session)
    except Exception as error:  # noqa: BLE001 the outermost boundary
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return _failed(
            session, 1, "unexpected", f"unexpected: {what}", "--debug shows the traceback"
        )
    return session.exit


def _failed(session: Session, code: int, name: str, message: str, next: str | None) -> int:
    if session.debug:
        say(traceback.format_exc().rstrip())
    if session.json:
        error = {"code": name, "message": message, "next": next}
        print_envelope(session.command, code, {}, error)
    else:
        say(f"error: {message}")
        if next:
            say(f"next: {next}")
    return code


def _usage(session: Session, error: click.ClickException) -> int:
    ctx: Any = getattr(error, "ctx", None)
    if isinstance(error, NoArgsIsHelpError) and not session.json:
        say(error.message.rstrip())
        return error.exit_code
    if ctx is not None:
        session.command = name_of(ctx)
    path = ctx.command_path if ctx is not None else PROGRAM
    message = "no verb was given" if isinstance(error, NoArgsIsHelpError) else ""
    return _failed(session, 2, "usage", message or error.format_message(), f"{path} --help")


def _interrupted(session: Session) -> int:
    """Say what an interrupted command leaves open, if the ledger answers soon."""
    say("")
    models = _open_models(session)
    if models is None:
        message = "interrupted; whether a move is open cannot be told now"
        next: str | None = f"{PROGRAM} diff tells, {PROGRAM} resume concludes it"
    elif models:
        message = f"interrupted; open: {', '.join(models)}"
        next = f"{PROGRAM} resume"
    else:
        message, next = "interrupted; no move is open", None
    return _failed(session, INTERRUPTED, "interrupted", message, next)


def _open_models(session: Session) -> list[str] | None:
    """Models with an open head; None when that cannot be told in time."""
    if "switch" not in session.__dict__ or "ledger" not in session.switch.rooms.__dict__:
        return []  # this command never came to the ledger
    found: list[list[str]] = []

    def look() -> None:
        try:
            heads = session.switch.ledger.heads()
        except ModelSwitchError:
            return
        found.append(sorted(name for name, event in heads.items() if event.head.is_open))

    asking = threading.Thread(target=look, daemon=True)
    asking.start()
    asking.join(_LOOK_S)
    return found[0] if found else None
