"""What an agent answers over HTTP: /readyz, /healthz, /metrics, /report.

It runs in the agent's own loop: where that does not turn any more, nothing answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

import structlog

from modelswitch.agent.agent import Agent
from modelswitch.errors import SettingsError
from modelswitch.reports import State

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

log = structlog.get_logger("modelswitch.agent")

_PATIENCE_S = 5.0
_TEXT = "text/plain; charset=utf-8"
_STATUS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@contextlib.asynccontextmanager
async def answering(agent: Agent, host: str, port: int) -> AsyncIterator[int]:
    """Answer meanwhile; the port. Raises SettingsError where it cannot listen."""
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    registry.register(_Metrics(agent))
    health = _Health(agent, registry)
    try:
        server = await asyncio.start_server(health.serve, host, port, limit=16_384)
    except OSError as error:
        raise SettingsError(
            f"the agent cannot listen on {host}:{port}: {error.strerror or error}",
            next="choose another [server] health_port, or see who listens there",
        ) from error
    async with server:
        yield server.sockets[0].getsockname()[1]


class _Health:
    def __init__(self, agent: Agent, registry: CollectorRegistry) -> None:
        self._agent = agent
        self._registry = registry

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, then the connection is closed."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                method, _, rest = head.decode("latin-1").partition(" ")
                path = rest.partition(" ")[0].partition("?")[0]
                writer.write(_response(method, *self._answer(method, path)))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, TimeoutError):
            return  # whoever asked has gone, or did not ask as one does
        finally:
            writer.close()

    def _answer(self, method: str, path: str) -> tuple[int, str, bytes]:
        if method not in ("GET", "HEAD"):
            return 405, _TEXT, b"only GET\n"
        match path:
            case "/readyz":
                return _probe(self._agent.why_not_ready)
            case "/healthz":
                return _probe(self._agent.why_stuck)
            case "/metrics":
                from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

                return 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)
            case "/report" if self._agent.report is not None:
                text = self._agent.report.model_dump_json(by_alias=True, indent=1)
                return 200, "application/json", text.encode()
            case "/report":
                return 503, _TEXT, b"nothing was looked at yet\n"
        return 404, _TEXT, b"there are /readyz, /healthz, /metrics and /report\n"


def _probe(why_not: str | None) -> tuple[int, str, bytes]:
    if why_not is None:
        return 200, _TEXT, b"ok\n"
    return 503, _TEXT, (" ".join(why_not.split()) + "\n").encode()


def _response(method: str, status: int, kind: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status} {_STATUS[status]}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == "HEAD" else body)


class _Metrics:
    """Read off the agent when somebody asks."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        agent = self._agent
        pins, report = agent.intake.pins, agent.report

        def gauge(name: str, text: str, value: float) -> Metric:
            return GaugeMetricFamily(f"modelswitch_{name}", text, value=value)

        def counter(name: str, text: str, value: float) -> Metric:
            return CounterMetricFamily(f"modelswitch_{name}", text, value=value)

        yield gauge("ready", "Whether requests may come", agent.why_not_ready is None)
        yield gauge(
            "generation_applied", "Of the pins that the server was last seen at", agent.applied
        )
        yield gauge("generation_wanted", "Of the pins taken", pins.generation if pins else 0)
        yield gauge(
            "pins_refused", "Whether what is published was refused", bool(agent.intake.refused)
        )
        yield gauge("turned_seconds", "Since the loop turned last", agent.turned_s)
        yield counter("loads", "Slots loaded and proven", agent.loads.done)
        yield counter("load_failures", "Loads that failed", agent.loads.failed)
        if (calls := agent.fleet.calls) is not None:
            yield counter("api_requests", "Requests to the API server", calls.requests)
            yield counter("api_errors", "Those that failed", calls.errors)
        proven = GaugeMetricFamily(
            "modelswitch_default_proven",
            "Whether the pinned default of a model answers here",
            labels=["model"],
        )
        for name, is_proven in agent.proven().items():
            proven.add_metric([name], is_proven)
        yield proven
        models = report.models.values() if report else ()
        states = Counter(slot.state for model in models for slot in model.slots.values())
        slots = GaugeMetricFamily("modelswitch_slots", "Slots by state", labels=["state"])
        for state in State:
            slots.add_metric([state.value], states[state])
        yield slots
