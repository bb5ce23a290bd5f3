"""What a verb answers, and how it is shown: for people, or as one JSON envelope."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings: ruled on a terminal, aligned text elsewhere."""

    headings: tuple[str, ...]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Result:
    """`data` is JSON's; `show` is for people, on stdout; `talk` goes to stderr."""

    data: Any
    show: Sequence[str | Table] = ()
    talk: Sequence[str] = ()
    exit: int = 0


def print_result(result: Result) -> None:
    for line in result.talk:
        say(line)
    with unless_closed():
        for part in result.show:
            if isinstance(part, Table):
                _print_table(part, sys.stdout)
            else:
                print(part)
        sys.stdout.flush()


def print_envelope(
    command: str, exit_code: int, data: Any, error: dict[str, str | None] | None = None
) -> None:
    envelope = {
        "schema": SCHEMA,
        "command": command,
        "ok": error is None and exit_code == 0,
        "exit": exit_code,
        "data": data,
        "error": error,
    }
    with unless_closed():
        print(json.dumps(envelope, ensure_ascii=False, indent=2, allow_nan=False))
        sys.stdout.flush()


def say(line: str) -> None:
    """Talk: never on stdout, and never a reason to fail."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # nobody listens any more
        return


@contextmanager
def unless_closed() -> Iterator[None]:
    """A reader that has gone, as in `| head -1`, changes nothing about what was done."""
    try:
        yield
    except BrokenPipeError:
        # Else Python flushes once more at its end, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_table(table: Table, out: TextIO) -> None:
    if out.isatty():
        from rich.console import Console
        from rich.table import Table as Ruled

        ruled = Ruled(*table.headings, header_style="bold")
        for row in table.rows:
            ruled.add_row(*(cell.replace("[", r"\[") for cell in row))
        Console(file=out).print(ruled)
        return
    lines = [table.headings, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.headings))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip(), file=out)


def local_time(at: datetime | None) -> str:
    """For people: local, with its zone."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z") if at else ""


def utc_time(at: datetime | None) -> str | None:
    """For JSON: RFC 3339, UTC."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z") if at else None


def size(count: float) -> str:
    """`1.4 GiB` for bytes."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def few(names: Sequence[str], most: int) -> str:
    """`a, b, c and 7 more`."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def counted(count: int, word: str) -> str:
    """`1 server`, `3 servers`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
