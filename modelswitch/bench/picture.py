"""The picture of a report: throughput, latency and where the time goes, over the clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelswitch.bench.report import Point, Report
from modelswitch.errors import UsageError

# Told apart by people who see no difference between red and green, too (Okabe and Ito, 2008).
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"


def draw(report: Report, path: Path) -> None:
    """Write a PNG (or what the suffix says); raises UsageError when that cannot be."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            f"{path} is not drawn: matplotlib is not installed here ({error})",
            next="pip install 'modelswitch[local]'",
        ) from error
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    _throughput(left, report.points)
    _latency(middle, report)
    _times(right, report.points)
    figure.suptitle(_title(report), fontsize=10)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be written: {error}", next="--picture bench.png"
        ) from error


def _title(report: Report) -> str:
    s = report.subject
    batch = f", batch {s.batch_size}" if s.batch_size else ""
    workers = f"{s.workers} worker{'s' if s.workers != 1 else ''}"
    return f"{s.name} ({s.label}), {workers}{batch}, {report.body_bytes:,} bytes a request"


def _ticks(axes: Any, points: tuple[Point, ...]) -> list[int]:
    """Evenly spaced: clients are doubled more often than not."""
    places = list(range(len(points)))
    axes.set_xticks(places, [str(point.clients) for point in points])
    axes.set_xlabel("clients")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return places


def _throughput(axes: Any, points: tuple[Point, ...]) -> None:
    places = _ticks(axes, points)
    axes.plot(places, [p.throughput for p in points], marker="o", color=_BLUE)
    for place, point in zip(places, points, strict=True):
        if point.failed:
            axes.annotate(
                f"{point.failed} failed",
                (place, point.throughput),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
                color=_RED,
                fontsize=8,
            )
    axes.set_ylim(0, 1.1 * max(p.throughput for p in points) or 1)
    axes.set_title("answers a second", fontsize=10)


def _latency(axes: Any, report: Report) -> None:
    places = _ticks(axes, report.points)
    for name, color in (("p50", _GREEN), ("p95", _ORANGE), ("p99", _RED)):
        values = [getattr(point, f"{name}_ms") for point in report.points]
        axes.plot(places, values, marker="o", color=color, label=name)
    if report.sla is not None:
        axes.axhline(report.sla.ms, color=_GREY, linestyle="--", label=f"SLA {report.sla.ms:g} ms")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title("milliseconds an answer", fontsize=10)


def _times(axes: Any, points: tuple[Point, ...]) -> None:
    places = _ticks(axes, points)
    axes.set_title("where they go, on average", fontsize=10)
    if any(point.queue_ms is None for point in points):
        axes.text(
            0.5, 0.5, "the server's times\nwere not read", transform=axes.transAxes, ha="center"
        )
        return
    below = [0.0] * len(points)
    for name, text, color in (
        ("worker_ms", "in the worker", _BLUE),
        ("queue_ms", "waiting for it", _ORANGE),
        ("rest_ms", "HTTP, network, client", _GREY),
    ):
        values = [getattr(point, name) for point in points]
        axes.bar(places, values, bottom=below, color=color, label=text, width=0.6)
        below = [b + v for b, v in zip(below, values, strict=True)]
    axes.legend(frameon=False, fontsize=8)
