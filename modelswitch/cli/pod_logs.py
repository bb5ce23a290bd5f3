"""Logs on Kubernetes: of the pods that have trouble with a version, worst first, a few.

TorchServe's container tells what its workers printed, the agent's what was tried with the
version. What an agent reported of it comes first: of a move that was undone the ledger knows it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from modelswitch.cli.output import Result, local_time, utc_time
from modelswitch.cli.session import Session
from modelswitch.cli.stack import published_pins
from modelswitch.errors import FleetUnreachable, LedgerUnreachable, NotFound
from modelswitch.refs import ModelRef, parse_ref
from modelswitch.reports import Report, State

if TYPE_CHECKING:
    from modelswitch.fleet.kubernetes import KubernetesFleet
    from modelswitch.ledger import Event
    from modelswitch.pins import PinnedModel

CONTAINERS = ("torchserve", "agent")
PODS = 3

_ROWS = 50  # of the ledger, each with what every server said of a move
_READ = 2000  # lines of a container, of which most are of other models
_NOT_HERE, _FINE, _LATE, _DOWN, _FAILED = range(5)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which slots are asked for: of a model all, of a version all, or one archive."""

    model: str
    version: str | None = None
    digest8: str | None = None

    def has(self, label: str) -> bool:
        version, _, digest8 = label.partition("-")
        return self.version in (None, version) and self.digest8 in (None, digest8)

    def is_named_in(self, text: str) -> bool:
        """Whether a line of the agent's speaks of one of them."""
        named = re.search(rf"(?<![\w.-]){re.escape(self.model)}(?![\w.-])", text)
        labels = re.findall(r"(?<![\w.-])\d+-[0-9a-f]{8}(?!\w)", text)
        return named is not None and any(self.has(label) for label in labels)


@dataclass(frozen=True, slots=True)
class Case:
    """How one server stands with what is wanted; `error` is what its agent says of it."""

    server: str
    badness: int
    error: str | None = None


def cases(
    reports: Iterable[Report],
    wanted: Wanted,
    pinned: Collection[str],
    undone: Mapping[str, str],
    now: datetime,
) -> list[Case]:
    """The worst first. `pinned`: the model's labels; `undone`: errors of a move given up."""
    found = [_case(report, wanted, pinned, undone.get(report.server), now) for report in reports]
    return sorted(found, key=lambda case: (-case.badness, case.server))


def _case(
    report: Report, wanted: Wanted, pinned: Collection[str], undone: str | None, now: datetime
) -> Case:
    name = report.server
    model = report.models.get(wanted.model)
    slots = {x: s for x, s in (model.slots if model else {}).items() if wanted.has(x)}
    failed = next((s for s in slots.values() if s.state is State.FAILED), None)
    if failed is not None:
        return Case(name, _FAILED, failed.error or "no reason was given")
    if undone is not None:
        return Case(name, _FAILED, undone)
    if report.is_silent(now):
        return Case(name, _DOWN, report.why_silent)
    if model is not None and model.error and slots:
        return Case(name, _FAILED, model.error)
    if any(slot.state is not State.PROVEN and x in pinned for x, slot in slots.items()):
        return Case(name, _LATE, report.error)
    return Case(name, _FINE if slots else _NOT_HERE)


def errors_of_undone(rows: Sequence[Event], wanted: Wanted) -> dict[str, str]:
    """What kept the latest move of it back, by server; empty when that move was not undone.

    `rows` are the model's, newest first.
    """
    by_seq = {row.seq: row for row in rows}
    for row in rows:
        opened = by_seq.get(row.parent or 0)
        if opened is None or opened.target is None or opened.line is None:
            continue
        new = [s for s in opened.target.slots if opened.line.find(s.digest) is None]
        new += [opened.target.default] if opened.target.default else []
        if row.is_note or row.head.is_open or not any(wanted.has(s.label) for s in new):
            continue
        said = row.evidence.get("servers", {}) if row.line != opened.target else {}
        return {name: s["error"] for name, s in said.items() if s.get("error")}
    return {}


def pod_logs(
    session: Session,
    fleet: KubernetesFleet,
    ref: str | None,
    server: str | None,
    lines: int | None,
) -> Result:
    """What `modelswitch logs` answers where servers are pods."""
    if ref is None:
        return _ends(session, fleet, server, lines or 5)
    asked = parse_ref(ref)
    version = None if asked == ModelRef(asked.name) else session.switch.resolve(asked)
    wanted = Wanted(asked.name, version, asked.digest8)
    pins, _ = published_pins(session)
    pinned = pins.models.get(wanted.model) if pins else None
    reports = _of_pools(session.switch.reports(), pinned)
    labels = pinned.slots if pinned else ()
    known = cases(reports, wanted, labels, _undone(session, wanted), datetime.now(UTC))
    if server is not None:
        known = [case for case in known if case.server == server] or [Case(server, _NOT_HERE)]
    chosen = choose(known)
    data = [entry for case in chosen for entry in _of_case(fleet, case, wanted, lines or 50)]
    talk = [_which(ref, known, chosen)] if server is None else []
    if not data and chosen:
        talk.append(f"nothing of {ref} is in the logs of {', '.join(c.server for c in chosen)}")
    unread = bool(data) and all(entry["source"] == "unread" for entry in data)
    return Result(data, [_shown(entry) for entry in data], talk, exit=1 if unread else 0)


def choose(known: Sequence[Case]) -> list[Case]:
    """The worst few; where nobody has trouble, a few of those that hold it."""
    troubled = [case for case in known if case.badness > _FINE]
    holding = [case for case in known if case.badness == _FINE]
    return list(troubled or holding or known)[:PODS]


def _which(ref: str, known: Sequence[Case], chosen: Sequence[Case]) -> str:
    troubled = sum(case.badness > _FINE for case in known)
    if not known:
        return "no pod has reported: kubectl get pods"
    if troubled > len(chosen):
        return f"{len(chosen)} of {troubled:,} pods that have trouble with {ref}: --server NAME"
    if troubled == 0:
        return f"no pod has trouble with {ref}: {len(chosen)} of {len(known):,}"
    have = "has" if troubled == 1 else "have"
    return f"{troubled} of {len(known):,} pods {have} trouble with {ref}"


def _of_pools(reports: Iterable[Report], pinned: PinnedModel | None) -> list[Report]:
    """Of the servers that should hold some of it; of all where no pin names it."""
    if pinned is None:
        return list(reports)
    pools = {pinned.pool, *(slot.pool for slot in pinned.slots.values() if slot.pool)}
    return [report for report in reports if report.pool in pools]


def _undone(session: Session, wanted: Wanted) -> dict[str, str]:
    try:
        return errors_of_undone(session.switch.history(wanted.model, _ROWS), wanted)
    except (LedgerUnreachable, NotFound):  # then by the reports alone
        return {}


def _of_case(
    fleet: KubernetesFleet, case: Case, wanted: Wanted, limit: int
) -> list[dict[str, Any]]:
    data = [_entry(case.server, "report", case.error)] if case.error else []
    for container, spoken in (("torchserve", _of_workers), ("agent", _of_agent)):
        try:
            told = fleet.logs(case.server, container, lines=_READ)
        except (FleetUnreachable, NotFound) as error:
            data.append(_entry(case.server, "unread", error.message))
        else:
            data += spoken(case.server, told, wanted)[-limit:]
    return data


def _of_workers(server: str, told: Iterable[str], wanted: Wanted) -> list[dict[str, Any]]:
    from modelswitch.servers.workerlog import read_line

    return [
        _entry(
            server,
            "torchserve",
            line.text,
            at=utc_time(datetime.fromtimestamp(line.at, UTC)),
            worker=line.worker,
            label=line.label,
        )
        for model, line in filter(None, map(read_line, told))
        if model == wanted.model and wanted.has(line.label)
    ]


def _of_agent(server: str, told: Iterable[str], wanted: Wanted) -> list[dict[str, Any]]:
    return [_entry(server, "agent", text) for text in told if wanted.is_named_in(text)]


def _ends(session: Session, fleet: KubernetesFleet, server: str | None, limit: int) -> Result:
    """Each container's log and its end, of the pods that are worst off."""
    from modelswitch.cli import fleet_status

    names = [server] if server else []
    if server is None:
        pins, _ = published_pins(session)
        found = fleet_status.look(session.switch.reports(), pins, datetime.now(UTC))
        names = [s.name for s in sorted(found, key=fleet_status.badness)[:PODS]]
    data: list[dict[str, Any]] = []
    talk = []
    for name in names:
        for container in CONTAINERS:
            try:
                told = fleet.logs(name, container, lines=limit)
            except (FleetUnreachable, NotFound) as error:
                talk.append(error.message)
            else:
                data.append({"log": f"{name}/{container}", "lines": told})
    show = []
    for entry in data:
        show += [entry["log"], *(f"  {line}" for line in entry["lines"])]
    if not names:
        talk.append("no pod has reported: kubectl get pods")
    return Result(data, show, talk, exit=1 if talk and not data else 0)


def _entry(
    server: str,
    source: str,
    text: str,
    *,
    at: str | None = None,
    worker: str | None = None,
    label: str | None = None,
) -> dict[str, Any]:
    return {
        "server": server,
        "source": source,
        "at": at,
        "worker": worker,
        "label": label,
        "text": text,
    }


def _shown(entry: Mapping[str, Any]) -> str:
    at = datetime.fromisoformat(entry["at"]) if entry["at"] else None
    words = (entry["server"], entry["source"], local_time(at), entry["label"], entry["text"])
    return " ".join(word for word in words if word)
