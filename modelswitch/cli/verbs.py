"""Commands that know the global flags, before and after the verb, and answer with a Result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import rich_click as click
from click.core import ParameterSource
from click.exceptions import Exit
from rich_click import (
    RichCommand,
    RichCommandPanel,
    RichGroup,
    RichOption,
    RichOptionPanel,
    RichPanel,
)

from modelswitch.cli.output import Result, print_envelope, print_result, unless_closed
from modelswitch.cli.session import Session

WORKERS = click.IntRange(1, 1024)  # as many as pins can ask for
ALLOW_PICKLE = click.option(
    "--allow-pickle", is_flag=True, help="Serve a pickled torch module: loading it runs its code."
)
_PANEL = "Everywhere"


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    # The line is read from left to right, so what stands behind the verb wins.
    name = param.name or ""
    source = ctx.get_parameter_source(name)
    session = ctx.find_object(Session)
    if session is not None and source is ParameterSource.COMMANDLINE:
        session.flags[name] = value


def _flag(*names: str, **more: Any) -> click.Option:
    return RichOption(names, expose_value=False, callback=_remember, panel=_PANEL, **more)


def global_flags() -> list[click.Parameter]:
    return [
        _flag("--json", is_flag=True, help="One JSON document on stdout."),
        _flag("--debug", is_flag=True, help="Logs, and the traceback of an error."),
        _flag(
            "--config", metavar="FILE", help="Settings, instead of the nearest modelswitch.toml."
        ),
        _flag("--deployment", metavar="NAME", help="Another deployment than the settings name."),
        _flag(
            "--timeout",
            metavar="S",
            type=click.FloatRange(min=0, min_open=True, max=86_400),
            help="Seconds to wait for servers to load, and to prove.",
        ),
        _flag("--dry-run", is_flag=True, help="Say what would change (exit 3), change nothing."),
        _flag("--yes", is_flag=True, help="Do not ask."),
        _flag("--actor", metavar="NAME", help="Who asks, as recorded beside the user."),
    ]


def _option_panels() -> list[RichPanel[Any, Any]]:
    return [RichOptionPanel("Options"), RichOptionPanel(_PANEL)]


class Verb(RichCommand):
    """A command whose callback takes the Session and returns a Result."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, panels=_option_panels(), **kwargs)
        self.params = [*self.params, *global_flags()]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _page():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        session = ctx.find_object(Session) or Session()
        session.command = name_of(ctx)
        session.configure_logs()
        result = super().invoke(ctx)
        finish(session, result)


class Verbs(RichGroup):
    """A command of commands, listed by `topics`; it may be a verb itself."""

    command_class = Verb

    def __init__(self, *args: Any, topics: Sequence[str] = (), **kwargs: Any) -> None:
        panels = [*(RichCommandPanel(topic) for topic in topics), *_option_panels()]
        super().__init__(*args, **{**kwargs, "panels": panels})
        self.params = [*self.params, *global_flags()]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _page():
            return super().parse_args(ctx, args)


@contextmanager
def _page() -> Iterator[None]:
    """Around the reading of a line, which prints --help and --version: nothing else does there."""
    with unless_closed():
        yield
        return
    raise Exit(0)


def name_of(ctx: click.Context) -> str:
    """`quarantine lift`: the words of the line, without the program's."""
    return ctx.command_path.partition(" ")[2]


def finish(session: Session, result: Result) -> None:
    session.exit = result.exit
    if session.json:
        print_envelope(session.command, result.exit, result.data)
    else:
        print_result(result)


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names from the published pins: no database, no MLflow; nothing at all when in doubt."""
    del param
    from modelswitch.errors import ModelSwitchError
    from modelswitch.fleet import FolderFleet

    session = ctx.find_object(Session) or Session()
    try:
        published = FolderFleet(session.settings.fleet_path).published()
    except ModelSwitchError:
        return []
    names = published.pins.models if published else {}
    return sorted(name for name in names if name.startswith(incomplete))
