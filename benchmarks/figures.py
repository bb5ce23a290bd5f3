"""What a benchmark hands back: figures with their budgets, tables beside them, and their text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number; `at_most` and `at_least` are its budget, where it has one."""

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def is_kept(self) -> bool:
        """A value that could not be measured (NaN) keeps no budget."""
        over = self.at_most is not None and not self.value <= self.at_most
        below = self.at_least is not None and not self.value >= self.at_least
        return not over and not below

    @property
    def budget(self) -> str:
        if self.at_most is not None:
            return f"≤ {self.at_most:g} {self.unit}".rstrip()
        return f"≥ {self.at_least:g} {self.unit}".rstrip() if self.at_least is not None else ""

    @property
    def verdict(self) -> str:
        if not self.budget:
            return ""
        return "ok" if self.is_kept else "over" if self.at_most is not None else "below"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            # JSON has no NaN
            "value": self.value if math.isfinite(self.value) else None,
            "unit": self.unit,
            "at_most": self.at_most,
            "at_least": self.at_least,
            "kept": self.is_kept,
        }


@dataclass(frozen=True, slots=True)
class Table:
    headings: tuple[str, ...]
    rows: Sequence[Sequence[str]]

    def to_json(self) -> dict[str, Any]:
        return {"headings": list(self.headings), "rows": [list(row) for row in self.rows]}


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one benchmark. `notes` say what the figures cannot."""

    name: str
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_kept(self) -> bool:
        return all(figure.is_kept for figure in self.figures)

    @property
    def text(self) -> str:
        rows = [
            (figure.name, f"{shown(figure.value)} {figure.unit}", figure.budget, figure.verdict)
            for figure in self.figures
        ]
        tables = [Table((self.name, "measured", "budget", ""), rows), *self.tables]
        return "\n\n".join([*map(aligned, tables), *self.notes])

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kept": self.is_kept,
            "figures": [figure.to_json() for figure in self.figures],
            "tables": [table.to_json() for table in self.tables],
            "notes": list(self.notes),
        }


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of them do not exceed; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def spread(name: str, values: Sequence[float], *, digits: int = 0) -> tuple[str, ...]:
    """A row: the name, how many, least, median, p95 and greatest; of at least one value."""
    points = (min(values), median(values), percentile(values, 0.95), max(values))
    return (name, str(len(values)), *(f"{value:.{digits}f}" for value in points))


def spread_headings(what: str) -> tuple[str, ...]:
    return (what, "n", "min", "median", "p95", "max")


def shown(value: float) -> str:
    if value == int(value) if math.isfinite(value) else False:
        return f"{int(value):,}"
    return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"


def aligned(table: Table) -> str:
    """As text: the first column to the left, the others to the right."""
    lines = [table.headings, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.headings))]
    rule = "  ".join("─" * width for width in widths)
    text = [_line(line, widths) for line in lines]
    return "\n".join([text[0], rule, *text[1:]])


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.rjust(width) if place else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()
