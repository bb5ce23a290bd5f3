"""The agent's report: made after each pass, sent when it says something new, and as a heartbeat."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import structlog

from modelswitch import __version__, effects
from modelswitch.errors import Temporary
from modelswitch.fleet.protocol import Feed
from modelswitch.pins import Pins
from modelswitch.reports import Capacity, Environment, Foreign, ModelReport, Report

log = structlog.get_logger("modelswitch.agent")


class Reporter:
    """`report` is the latest; None before the first pass."""

    def __init__(
        self,
        fleet: Feed,
        *,
        name: str,
        pool: str,
        environment: Callable[[], Environment],
        capacity: Capacity,
        inference_url: str | None,
    ) -> None:
        self.report: Report | None = None
        self.boot_id = uuid.uuid4().hex
        self._fleet = fleet
        self._name = name
        self._pool = pool
        self._environment = environment
        self._capacity = capacity
        self._inference_url = inference_url
        self._pins: Pins | None = None

    def tell(
        self,
        pins: Pins | None,
        *,
        applied: int,
        models: Mapping[str, ModelReport],
        foreign: tuple[Foreign, ...],
        unproven: list[str],
        server_error: str | None,
        refused: str | None,
    ) -> None:
        """Report how it stands; `unproven` are the models whose pinned default is not."""
        problems = [server_error, refused]
        if unproven and not server_error:
            problems.append("not yet proven here: " + ", ".join(unproven))
        now = datetime.now(UTC)
        report = Report(
            server=self._name,
            pool=self._pool,
            boot_id=self.boot_id,
            at=now,
            heartbeat_at=now,
            generation=applied,
            epoch=pins.epoch if pins else "main",
            pins_sha256=pins.sha256 if pins else "",
            correlation_id=effects.correlation_id(),
            agent=__version__,
            healthy=server_error is None and not unproven,
            error="; ".join(p for p in problems if p) or None,
            inference_url=self._inference_url,
            env=self._environment(),
            capacity=self._capacity,
            models=dict(models),
            foreign=foreign,
        )
        if self.report is not None:
            same = {"at": self.report.at, "heartbeat_at": self.report.heartbeat_at}
            if report.model_copy(update=same) == self.report:
                return
        self.report, self._pins = report, pins
        self._send(report)

    def beat(self) -> None:
        """Send the latest again, as of now."""
        if self.report is not None:
            self.report = self.report.model_copy(update={"heartbeat_at": datetime.now(UTC)})
            self._send(self.report)

    def say_goodbye(self) -> None:
        """Report that the agent was stopped, so that nobody waits for its heartbeat to age."""
        if self.report is not None:
            long_ago = datetime.fromtimestamp(0, UTC)
            told = {"heartbeat_at": long_ago, "healthy": False, "error": "its agent was stopped"}
            self._send(self.report.model_copy(update=told))

    def _send(self, report: Report) -> None:
        try:
            self._fleet.report(report, self._pins)
        except Temporary as error:
            log.warning("agent.report_failed", why=error.message)
