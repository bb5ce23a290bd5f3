"""One run of the command line: its flags, its settings, and the rooms opened for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelswitch.errors import SettingsError, UsageError

if TYPE_CHECKING:
    from modelswitch.cli.progress import Progress
    from modelswitch.local.stack import Stack
    from modelswitch.settings import Settings
    from modelswitch.switch import ModelSwitch

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_STYLES = ("console", "json")


def _open_switch(settings: Settings, actor: str | None) -> ModelSwitch:
    from modelswitch.switch import ModelSwitch

    return ModelSwitch(settings, actor=actor)


@dataclass
class Session:
    """Handed to every verb. Tests hand in their own `open_switch`, over in-memory twins.

    `flags` are the global flags as given, wherever they stood on the line.
    """

    open_switch: Callable[[Settings, str | None], ModelSwitch] = _open_switch
    flags: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    exit: int = 0
    wants_json: bool = False  # seen before the line was parsed: its errors are JSON too

    @property
    def json(self) -> bool:
        return self.wants_json or bool(self.flags.get("json"))

    @property
    def debug(self) -> bool:
        return bool(self.flags.get("debug")) or os.environ.get("MODELSWITCH_DEBUG", "") not in (
            "",
            "0",
            "false",
        )

    @property
    def dry_run(self) -> bool:
        return bool(self.flags.get("dry_run"))

    @property
    def timeout_s(self) -> float | None:
        return self.flags.get("timeout")

    @property
    def is_interactive(self) -> bool:
        """Whether somebody can be asked."""
        return sys.stdin.isatty() and sys.stderr.isatty() and not self.json

    @cached_property
    def settings(self) -> Settings:
        from modelswitch import settings as reading

        file = self.flags.get("config")
        found = reading.load(
            file=Path(file) if file else None, deployment=self.flags.get("deployment")
        )
        if self.timeout_s is None:
            return found
        limits = {"load_s": self.timeout_s, "prove_s": self.timeout_s}
        timeouts = found.timeouts.model_copy(update=limits)
        return found.model_copy(update={"timeouts": timeouts})

    @cached_property
    def switch(self) -> ModelSwitch:
        actor = self.flags.get("actor") or os.environ.get("MODELSWITCH_ACTOR") or None
        return self.open_switch(self.settings, actor)

    @cached_property
    def stack(self) -> Stack:
        try:
            from modelswitch.local.stack import Stack
        except ImportError as error:
            from modelswitch.errors import StackError

            raise StackError(
                f"the local stack is not installed here ({error})",
                next="pip install 'modelswitch[local]'",
            ) from error
        return Stack(self.settings)

    def reason(self, given: str | None) -> str:
        """The reason for a move: given, else asked for; raises UsageError when it cannot be."""
        if given and given.strip(" .…"):
            return given.strip()
        if given is None and self.is_interactive:
            import click

            return str(click.prompt("reason", err=True)).strip()
        raise UsageError(
            f"{self.command} needs a reason" + (f", {given!r} is none" if given else ""),
            next=f'modelswitch {self.command} … --reason "why"',
        )

    def agrees(self, question: str) -> bool:
        """Ask before a move, on a terminal only and not with --yes."""
        if self.flags.get("yes") or not self.is_interactive:
            return True
        import click

        return bool(click.confirm(question, default=True, err=True))

    @contextmanager
    def steps(self, subject: str = "") -> Iterator[Progress]:
        """Show the progress of what runs inside."""
        from modelswitch import effects
        from modelswitch.cli.output import say
        from modelswitch.cli.progress import Progress

        progress = Progress(sys.stderr, subject, plain=not self.json)
        before = self._pins_file()
        try:
            with effects.watching(progress=progress.step):
                yield progress
        finally:
            progress.clear()
            if not self.json and self._pins_file() != before:
                say(f"commit this: {self.settings.fleet.pins_file} has changed")

    def _pins_file(self) -> bytes | None:
        """What stands in the working tree and belongs into its history."""
        file = self.settings.fleet.pins_file
        if file is None:
            return None
        with suppress(OSError):
            return file.read_bytes()
        return None

    def configure_logs(self, level: str = "CRITICAL") -> None:
        """As MODELSWITCH_LOG says (`json`, `INFO`, `json:INFO`), else `level` for people.

        A verb is silent by default: what it has to say is its result, or its one error.
        """
        from modelswitch import effects, logs

        style = "console"
        variable = os.environ.get("MODELSWITCH_LOG", "")
        for part in filter(None, variable.split(":")):
            if part.lower() in _STYLES:
                style = part.lower()
                level = level if level != "CRITICAL" else "WARNING"
            elif part.upper() in _LEVELS:
                level = part.upper()
            else:
                raise SettingsError(
                    f"MODELSWITCH_LOG: {part!r} is neither a style nor a level",
                    next=f"one of {', '.join(_STYLES)}, one of {', '.join(_LEVELS)}: json:INFO",
                )
        logs.configure(style=style, level="DEBUG" if self.debug else level)
        effects.set_correlation_id(os.environ.get("MODELSWITCH_CORRELATION_ID") or None)
