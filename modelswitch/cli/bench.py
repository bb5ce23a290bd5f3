"""The verb that measures a served model or a candidate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from modelswitch.cli.documents import read_inputs
from modelswitch.cli.output import Result, Table, counted
from modelswitch.cli.predict import PANEL, TIMEOUT_S
from modelswitch.cli.session import Session
from modelswitch.cli.verbs import Verb, complete_model
from modelswitch.errors import UsageError

if TYPE_CHECKING:
    from modelswitch.bench import Point, Report

_MOST_CLIENTS = 1024


def _clients(ctx: click.Context, param: click.Parameter, text: str) -> tuple[int, ...]:
    del ctx, param
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not 1 <= found[0] <= found[-1] <= _MOST_CLIENTS:
        raise click.BadParameter(f"numbers from 1 to {_MOST_CLIENTS}, like 1,2,4,8,16")
    return tuple(found)


@click.command("bench", cls=Verb, panel=PANEL)
@click.argument("ref", shell_complete=complete_model)
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="A request as for predict; else the archive's golden request.",
)
@click.option(
    "--clients",
    default="1,2,4,8,16",
    show_default=True,
    callback=_clients,
    metavar="N,N",
    help="How many ask at once, one measurement for each.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.5, max=3600),
    default=5.0,
    show_default=True,
    help="Of each measurement.",
)
@click.option(
    "--warm-up",
    "warm_up_s",
    type=click.FloatRange(min=0, max=600),
    default=15.0,
    show_default=True,
    help="Seconds at most, before the first; it ends when three in a row are alike.",
)
@click.option(
    "--sla-ms", type=click.FloatRange(min=0, min_open=True), help="Instead of the model's."
)
@click.option("--server", metavar="NAME", help="Which one; else the first that is live.")
@click.option(
    "--metrics-url", metavar="URL", help="TorchServe's metrics, for the server's own times."
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw it.",
)
@click.pass_obj
def bench(
    session: Session,
    ref: str,
    source: Path | None,
    clients: tuple[int, ...],
    seconds: float,
    warm_up_s: float,
    sla_ms: float | None,
    server: str | None,
    metrics_url: str | None,
    picture: Path | None,
) -> Result:
    """Load-test what serves, or NAME@VERSION if that is loaded, on one server.

    Clients ask without pause, by the version's label; callers of the server feel it.
    """
    from modelswitch.bench import Plan
    from modelswitch.refs import parse_ref

    wanted = parse_ref(ref)
    inputs = read_inputs(source) if source else None
    if picture and not picture.absolute().parent.is_dir():
        raise UsageError(f"{picture} cannot be written: there is no folder {picture.parent}")
    plan = Plan(clients, seconds, warm_up_s, session.timeout_s or TIMEOUT_S)
    with session.steps(ref):
        report = session.switch.served.bench(
            wanted,
            plan,
            inputs=inputs,
            body_from=str(source),
            sla_ms=sla_ms,
            server=server,
            metrics_url=metrics_url.rstrip("/") if metrics_url else None,
        )
    if picture:
        report.draw(picture)
    talk = [*report.notes, *([f"the picture is in {picture}"] if picture else [])]
    lines: list[str | Table] = [_head(report), _table(report), *_verdict(report)]
    silent = [str(point.clients) for point in report.points if not point.requests]
    if silent:
        of = "1 client" if silent == ["1"] else f"{', '.join(silent)} clients"
        lines.append(f"Nothing was answered at {of}: modelswitch show {ref}")
    return Result(report.data, lines, talk=talk, exit=1 if silent else 0)


def _head(report: Report) -> str:
    s = report.subject
    batch = f", batch size {s.batch_size}" if s.batch_size else ""
    return (
        f"{s.name} ({s.label}) at {s.url}: {counted(s.workers, 'worker')}{batch}; "
        f"{report.body_bytes:,} bytes a request ({s.body_from})"
    )


def _table(report: Report) -> Table:
    headings = ("clients", "a second", "p50 ms", "p95 ms", "p99 ms", "waiting", "worker", "rest")
    rows = [_row(point) for point in report.points]
    return Table((*headings, "failed"), rows)


def _row(point: Point) -> tuple[str, ...]:
    times = (point.p50_ms, point.p95_ms, point.p99_ms)
    parts = (point.queue_ms, point.worker_ms, point.rest_ms)
    failed = ", ".join(f"{count} {kind}" for kind, count in point.errors.items())
    return (
        str(point.clients),
        f"{point.throughput:,.0f}",
        *(f"{ms:.1f}" if point.requests else "" for ms in times),
        *("" if ms is None else f"{ms:.1f}" for ms in parts),
        failed or "0",
    )


def _verdict(report: Report) -> list[str]:
    found = []
    sla = report.sla
    if sla is None:
        found.append("No latency SLA is known: latency_sla_ms at register, or --sla-ms.")
    else:
        what = f"The SLA of {sla.ms:g} ms (p{sla.percentile}, nothing failed)"
        if sla.fails_at is None:
            found.append(f"{what} holds at up to {counted(sla.holds_up_to or 0, 'client')}.")
        elif sla.holds_up_to is None:
            found.append(f"{what} does not hold, not even at {counted(sla.fails_at, 'client')}.")
        else:
            found.append(
                f"{what} holds at up to {counted(sla.holds_up_to, 'client')}, not at "
                f"{sla.fails_at}."
            )
    s, now = report.suggestion, report.subject
    changes = []
    if s.workers != now.workers:
        changes.append(counted(s.workers, "worker"))
    if s.batch_size is not None and s.batch_size != now.batch_size:
        changes.append(f"a batch size of {s.batch_size}")
    head = f"Try {' and '.join(changes)}" if changes else "Nothing to change"
    return [*found, f"{head}: {'; '.join(s.why)}."]


VERBS = (bench,)
