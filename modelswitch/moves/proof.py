"""What every server says of a move, as its agent reports it: warm, proven, failed, behind.

Commands decide by reports alone; they never ask a server themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modelswitch.effects import tell
from modelswitch.errors import FleetUnreachable, NotProven, PinsError
from modelswitch.fleet.protocol import Fleet
from modelswitch.line import Slot
from modelswitch.pins import PinnedModel
from modelswitch.reports import Proof as DefaultProof
from modelswitch.reports import Report, SlotReport, State
from modelswitch.settings import Timeouts

_LOOK_EVERY_S = 0.5
_QUIET_S = 60.0  # longer than any agent keeps silent that has nothing to tell
_SLACK_S = 10.0  # an agent's fetch and verification come before its own load timeout


@dataclass(frozen=True, slots=True)
class ServerOutcome:
    """What one server did of a move. `state`: proven · ready · failed · behind · down."""

    name: str
    state: str
    proven_at: datetime | None = None
    latency_ms: float | None = None
    error: str | None = None

    @property
    def why(self) -> str:
        """In one line: of a traceback the last."""
        lines = (self.error or "").strip().splitlines()
        return lines[-1] if lines else self.state


@dataclass(frozen=True, slots=True)
class Outcome:
    ok: bool
    servers: tuple[ServerOutcome, ...] = ()

    @property
    def evidence(self) -> dict[str, Any]:
        return {
            "servers": {
                s.name: {
                    "state": s.state,
                    "proven_at": s.proven_at.isoformat() if s.proven_at else None,
                    "error": s.error,
                }
                for s in self.servers
            }
        }

    @property
    def story(self) -> str:
        bad = [s for s in self.servers if s.state != "proven"]
        return "; ".join(f"server {s.name}: {s.why}" for s in bad)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What a report says of a move: done, failed for good, or not yet either."""

    done: bool = False
    failed: bool = False
    error: str | None = None
    answer: DefaultProof | None = None  # of the default path


Judge = Callable[[Report], _Verdict]


class Proof:
    """Waits for the servers of one deployment."""

    def __init__(self, fleet: Fleet, timeouts: Timeouts) -> None:
        self.fleet = fleet
        self.timeouts = timeouts

    def roster(self, pool: str) -> tuple[Report, ...]:
        """The servers of a pool."""
        return tuple(r for r in self.fleet.reports() if r.pool == pool)

    def refuse_silent(self, model: str, slot: Slot, pool: str, *, verb: str = "promoted") -> None:
        """Before any effect: every server of the pool must live to be proven."""
        now = datetime.now(UTC)
        everyone = self.fleet.reports()
        roster = [r for r in everyone if r.pool == pool]
        silent = [r for r in roster if r.is_silent(now)]
        if not roster or len(silent) == len(roster):
            others = sorted({r.pool for r in everyone} - {pool})
            known = f" (other pools: {', '.join(others)})" if others else ""
            why = f": {silent[0].server}: {silent[0].why_silent}" if silent else ""
            raise FleetUnreachable(
                f"{model}@{slot.version}: no live server in the pool {pool}{known}, so nothing "
                f"can be proven{why}",
                next=f"modelswitch status; {self.fleet.how_to_start()}",
            )
        if silent:
            names = ", ".join(r.server for r in silent)
            raise NotProven(
                f"{model}@{slot.version} was not {verb}: server {names} is down "
                f"({silent[0].why_silent}). Nothing was changed.",
                next="start it again, or strike it off the roster: "
                + self.fleet.how_to_forget(silent[0].server),
            )

    def is_warm(self, model: str, slot: Slot, pool: str) -> bool:
        roster = self.roster(pool)
        return bool(roster) and all(r.is_warm(model, slot.label, slot.workers) for r in roster)

    def wait_warm(self, model: str, slot: Slot, pool: str) -> Outcome:
        def judge(report: Report) -> _Verdict:
            found = report.slot(model, slot.label)
            if found.state is State.FAILED:
                return _Verdict(failed=True, error=found.error)
            done = report.is_warm(model, slot.label, slot.workers)
            return _Verdict(done=done, error=None if done else _counted(found, slot))

        return self._wait(
            judge,
            self.timeouts.load_s + _SLACK_S,
            pool,
            meanwhile=lambda: self._is_pinned(model, lambda p: slot.label in p.slots),
        )

    def wait_fewer(self, model: str, slot: Slot, pool: str) -> Outcome:
        """Until every server that is not down has come down to the slot's workers."""

        def judge(report: Report) -> _Verdict:
            found = report.slot(model, slot.label)
            done = found.state is State.PROVEN and found.workers == slot.workers
            return _Verdict(done=done, error=None if done else _counted(found, slot))

        return self._wait(
            judge,
            self.timeouts.load_s + self.timeouts.unload_s + _SLACK_S,
            pool,
            meanwhile=lambda: self._is_pinned(model, lambda p: slot.label in p.slots),
            everyone=True,
        )

    def wait_proven(self, model: str, slot: Slot, pool: str, *, everyone: bool = False) -> Outcome:
        """`everyone`: also hear the others out when one failed, and wait for none that is down."""
        judge = self._judge_proven(model, slot)
        return self._wait(
            judge,
            self.timeouts.prove_s,
            pool,
            meanwhile=lambda: self._is_pinned(model, lambda p: p.default == slot.label),
            everyone=everyone,
        )

    def _is_pinned(self, model: str, as_wanted: Callable[[PinnedModel], bool]) -> bool:
        """Whether the published pins still ask for it, or another command has moved on."""
        try:
            published = self.fleet.published()
        except (PinsError, FleetUnreachable):  # agents keep to what they have
            return True
        pinned = published.pins.models.get(model) if published else None
        return pinned is not None and as_wanted(pinned)

    def _judge_proven(self, model: str, slot: Slot) -> Judge:
        def judge(report: Report) -> _Verdict:
            found = report.slot(model, slot.label)
            error = found.error or (report.models[model].error if model in report.models else None)
            if report.proves(model, slot.label, slot.digest):
                return _Verdict(done=True, answer=report.models[model].proof)
            return _Verdict(failed=found.state is State.FAILED, error=error)

        return judge

    def _wait(
        self,
        judge: Judge,
        timeout_s: float,
        pool: str,
        *,
        meanwhile: Callable[[], bool],
        everyone: bool = False,
    ) -> Outcome:
        """Until every server of the pool is done, or one failed, or time is up.

        Done is what two more looks confirm: a server may have joined meanwhile. Given up, too,
        as soon as `meanwhile` does not hold: nobody will do it any more.

        A report counts from the generation published on. `everyone`: also hear the others out
        when one has failed, and do not wait for servers that are down.
        """
        published = self.fleet.published()
        generation = published.pins.generation if published else 0
        servers: dict[str, ServerOutcome] = {}
        started = looked = time.monotonic()
        for reports in self.fleet.watch(timeout_s):
            now = datetime.now(UTC)
            servers = {
                r.server: _outcome(r, judge, generation, now) for r in reports if r.pool == pool
            }
            tell(
                "fleet.wait",
                servers={name: s.state for name, s in servers.items()},
                elapsed_s=time.monotonic() - started,
            )
            states = [s.state for s in servers.values()]
            if states and all(s == "proven" for s in states):
                if self._is_confirmed(judge, generation, pool):
                    return Outcome(ok=True, servers=tuple(servers.values()))
                continue
            ended = {"proven", "failed", "down"} if everyone else {"proven"}
            if all(s in ended for s in states) or (not everyone and "failed" in states):
                break
            if time.monotonic() - looked > _LOOK_EVERY_S:
                looked = time.monotonic()
                if not meanwhile():
                    break
        return Outcome(ok=False, servers=tuple(servers.values()))

    def _is_confirmed(self, judge: Judge, generation: int, pool: str) -> bool:
        """Whether two looks in a row find every server of the pool done."""
        for _ in range(2):
            try:
                roster = self.roster(pool)
            except FleetUnreachable:
                return False
            now = datetime.now(UTC)
            states = [_outcome(report, judge, generation, now).state for report in roster]
            if not states or any(state != "proven" for state in states):
                return False
        return True


def _counted(found: SlotReport, slot: Slot) -> str | None:
    """Of a slot that serves with another number of workers than it should."""
    if found.error or not found.workers:
        return found.error
    return f"{found.workers} of {slot.workers} workers are READY"


def _outcome(report: Report, judge: Judge, generation: int, now: datetime) -> ServerOutcome:
    if report.is_silent(now):
        return ServerOutcome(report.server, "down", error=f"it is down ({report.why_silent})")
    verdict = judge(report) if report.generation >= generation else _Verdict()
    if verdict.done:
        proof = verdict.answer
        return ServerOutcome(
            report.server,
            "proven",
            proof.at if proof else None,
            proof.latency_ms if proof else None,
        )
    error = verdict.error or report.error
    if error is None and (now - report.heartbeat_at).total_seconds() > _QUIET_S:
        error = f"behind, and {report.why_silent}"
    return ServerOutcome(report.server, "failed" if verdict.failed else "behind", error=error)
