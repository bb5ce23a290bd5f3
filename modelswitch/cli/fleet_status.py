"""The servers of a fleet as `status` tells them: what is wrong first, and what is alike together.

Pure: reports and pins in, JSON and lines out. A few servers have a row each; of more, each pool
has its troubles, worst first, and one line of what is well.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelswitch.cli.output import Table, counted, few, local_time, utc_time
from modelswitch.line import version_of
from modelswitch.pins import PinnedModel, Pins
from modelswitch.policy.sums import amount
from modelswitch.reports import ModelReport, Report, State

STATES = ("down", "failing", "behind", "loading", "well")  # worst first
FEW = 12  # servers that have a row each

_NAMES = 3
_WHY_CHARS = 300
_TROUBLES = 10
_MODELS = 4
# What differs between servers that have the same trouble: times, addresses, amounts. A digit of
# a name, a version or a label is none of these.
_FIGURES = re.compile(
    r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)?|0x[0-9a-f]+|(?<![\w@.-])\d+(?:\.\d+)*(?![\w-])"
)


@dataclass(frozen=True, slots=True)
class Server:
    """One server: its state, and why it is not well."""

    report: Report
    state: str
    why: str | None = None

    @property
    def name(self) -> str:
        return self.report.server

    def data(self, wanted: int | None) -> dict[str, Any]:
        report = self.report
        return {
            "name": report.server,
            "pool": report.pool,
            "url": report.inference_url,
            "state": self.state,
            "generation": {"wanted": wanted, "applied": report.generation},
            "heartbeat_at": utc_time(report.heartbeat_at),
            "agent": report.agent,
            "models": {
                name: {
                    "default": model.default,
                    "proven_at": utc_time(model.proof.at) if model.proof else None,
                    "error": model.error,
                    "slots": {
                        label: {
                            "state": str(s.state),
                            "workers": s.workers,
                            "error": s.error,
                            "memory_bytes": s.memory_bytes,
                        }
                        for label, s in sorted(model.slots.items())
                    },
                }
                for name, model in sorted(report.models.items())
            },
            "why_not": self.why_not,
        }

    @property
    def why_not(self) -> str | None:
        return f"down: {self.why}" if self.state == "down" else self.why


@dataclass(frozen=True, slots=True)
class Trouble:
    """Servers of which the same is told, but for figures: `why` is the first one's."""

    state: str
    why: str
    servers: tuple[str, ...]
    is_same: bool

    def line(self) -> str:
        why = textwrap.shorten(self.why, _WHY_CHARS, placeholder=" …")
        why += "" if self.is_same else " (or alike)"
        return f"  {self.state:<8}{len(self.servers):>6,}  {why}: {few(self.servers, _NAMES)}"


@dataclass(frozen=True, slots=True)
class Serving:
    """A model's default on the servers of a pool that are well; `since` the first of them."""

    model: str
    default: str | None
    servers: int
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Pool:
    """The servers of one pool; `wanted` is the published generation, None where it is unknown."""

    name: str
    wanted: int | None
    servers: tuple[Server, ...]

    @property
    def live(self) -> list[Server]:
        return [s for s in self.servers if s.state != "down"]

    @property
    def well(self) -> list[Server]:
        return [s for s in self.servers if s.state == "well"]

    @property
    def behind(self) -> list[Server]:
        """Live, and not at the published generation."""
        known = self.wanted is not None
        return [s for s in self.live if known and s.report.generation != self.wanted]

    @property
    def troubles(self) -> list[Trouble]:
        """Worst first; of one state, what most servers have."""
        alike: dict[tuple[str, int, str], list[Server]] = {}
        for server in self.servers:
            if server.state != "well":
                alike.setdefault(_kind(server), []).append(server)
        found = [
            Trouble(
                state,
                group[0].why or state,
                tuple(s.name for s in group),
                is_same=all(s.why == group[0].why for s in group),
            )
            for (state, _, _), group in alike.items()
        ]
        return sorted(found, key=lambda t: (STATES.index(t.state), -len(t.servers)))

    @property
    def serving(self) -> list[Serving]:
        """What moved last first."""
        found: dict[tuple[str, str | None], list[datetime | None]] = {}
        for server in self.well:
            for name, model in server.report.models.items():
                at = model.proof.at if model.proof else None
                found.setdefault((name, model.default), []).append(at)
        servings = [
            Serving(name, default, len(times), min((t for t in times if t), default=None))
            for (name, default), times in found.items()
        ]
        return sorted(servings, key=lambda s: (-(s.since.timestamp() if s.since else 0), s.model))

    def data(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "servers": len(self.servers),
            "well": len(self.well),
            "behind": len(self.behind),
            "down": len(self.servers) - len(self.live),
            "troubles": [
                {"state": t.state, "why": t.why, "servers": list(t.servers)} for t in self.troubles
            ],
            "serving": [
                {
                    "model": s.model,
                    "default": s.default,
                    "servers": s.servers,
                    "since": utc_time(s.since),
                }
                for s in self.serving
            ],
        }

    def lines(self) -> list[str]:
        live, behind = len(self.live), len(self.behind)
        down = len(self.servers) - live
        at = "" if self.wanted is None else f" at generation {self.wanted}"
        head = f"{self.name}  {live - behind:,} of {len(self.servers):,}{at}"
        head += f", {behind:,} behind" if behind else ""
        head += f", {down:,} down" if down else ""
        troubles = self.troubles
        rest = troubles[_TROUBLES:]
        lines = [head, *(trouble.line() for trouble in troubles[:_TROUBLES])]
        if rest:
            on = counted(sum(len(t.servers) for t in rest), "server")
            lines.append(f"  and {len(rest):,} other troubles, on {on}: --json tells them all")
        if self.well:
            lines.append(f"  {'well':<8}{len(self.well):>6,}  {self._served()}".rstrip())
        return lines

    def _served(self) -> str:
        serving = self.serving
        told = [
            f"{_named(s.model, s.default)} since {local_time(s.since)}"
            if s.default
            else f"{s.model} (candidates only)"
            for s in serving[:_MODELS]
        ]
        rest = len(serving) - _MODELS
        return ", ".join(told) + (f" and {counted(rest, 'more model')}" if rest > 0 else "")


def look(reports: Iterable[Report], pins: Pins | None, now: datetime) -> list[Server]:
    """What each report says of its server; `pins` are those published, None if unreadable."""
    asked: dict[str, Mapping[str, PinnedModel]] = {}
    found = []
    for report in reports:
        if report.pool not in asked:
            asked[report.pool] = pins.of_pool(report.pool) if pins else {}
        generation = pins.generation if pins else report.generation
        found.append(_look(report, generation, asked[report.pool], now))
    return found


def pools(servers: Iterable[Server], wanted: int | None) -> list[Pool]:
    """The worst first."""
    by_name: dict[str, list[Server]] = {}
    for server in servers:
        by_name.setdefault(server.report.pool, []).append(server)
    found = [Pool(name, wanted, tuple(mine)) for name, mine in by_name.items()]
    return sorted(found, key=lambda p: (min(map(badness, p.servers)), p.name))


def lines(servers: Sequence[Server], wanted: int | None) -> list[str | Table]:
    """A row for each server of a few, else what is wrong in each pool."""
    if len(servers) <= FEW:
        return [_table(sorted(servers, key=badness), wanted)]
    return [line for pool in pools(servers, wanted) for line in pool.lines()]


def _look(
    report: Report, generation: int, wanted: Mapping[str, PinnedModel], now: datetime
) -> Server:
    if report.is_silent(now):
        return Server(report, "down", report.why_silent)
    broken = _broken(report)
    if broken:
        return Server(report, "failing", broken)
    if report.generation != generation:
        why = f"at generation {report.generation}"
        why += ", above what is published" if report.generation > generation else ""
        return Server(report, "behind", why + (f": {report.error}" if report.error else ""))
    loading = [
        _named(name, label)
        for name, model in sorted(wanted.items())
        for label, slot in sorted(model.slots.items())
        if not report.is_warm(name, label, slot.workers)
    ]
    if loading:
        why = f"loads {few(loading, _NAMES)}" + (f": {report.error}" if report.error else "")
        return Server(report, "loading", why)
    if report.error or not report.healthy:
        return Server(report, "failing", report.error or "not healthy")
    return Server(report, "well")


def _broken(report: Report) -> str:
    """What its agent could not do, in one line."""
    found = []
    for name, model in sorted(report.models.items()):
        failed = [
            f"{_named(name, label)} failed: {_last_line(slot.error)}"
            for label, slot in sorted(model.slots.items())
            if slot.state is State.FAILED
        ]
        found += failed or ([f"{name}: {_last_line(model.error)}"] if model.error else [])
    return found[0] + (f" (and {len(found) - 1} more)" if len(found) > 1 else "") if found else ""


def _kind(server: Server) -> tuple[str, int, str]:
    """What is the same of servers that are told of together."""
    generation = server.report.generation if server.state == "behind" else 0
    why = (server.why or "").replace(server.name, "")
    return server.state, generation, _FIGURES.sub("#", why)


def badness(server: Server) -> int:
    """To sort by: the worst is the least."""
    return STATES.index(server.state)


def _table(servers: Sequence[Server], wanted: int | None) -> Table:
    pooled = any(s.report.pool != "default" for s in servers)
    measured = any(_memory(m) for s in servers for m in s.report.models.values())
    rows: list[tuple[str, ...]] = []
    for server in servers:
        report = server.report
        place = (report.server, *((report.pool,) if pooled else ()))
        generation = f"{report.generation} of {'?' if wanted is None else wanted}"
        defaults = [
            (
                name,
                model.default or "-",
                local_time(model.proof.at) if model.proof else "-",
                *((_memory(model) or "-",) if measured else ()),
            )
            for name, model in sorted(report.models.items())
        ] or [("-", "-", "-", *(("-",) if measured else ()))]
        rows.append((*place, generation, *defaults[0], server.why_not or "well"))
        rows += [(*("" for _ in place), "", *default, "") for default in defaults[1:]]
    headings = ("server", *(("pool",) if pooled else ()), "generation", "model", "default")
    memory = ("memory",) if measured else ()
    return Table((*headings, "proven since", *memory, "state"), rows)


def _memory(model: ModelReport) -> str | None:
    """What all workers of a model take on one server: `1.6 GB`; None where nobody can tell."""
    slots = model.slots.values()
    known = sum(s.workers * (s.memory_bytes or 0) for s in slots)
    more = any(s.workers and not s.memory_bytes for s in slots)
    return ("at least " if more else "") + amount(known) if known else None


def _named(model: str, label: str | None) -> str:
    return f"{model}@{version_of(label)}" if label else model


def _last_line(text: str | None) -> str:
    told = [line for line in (text or "").splitlines() if line.strip()]
    return told[-1].strip() if told else "no reason was given"
