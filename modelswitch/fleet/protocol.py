"""What the verbs and the agents ask of a fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from modelswitch.pins import Pins
from modelswitch.reports import Report


@dataclass(frozen=True, slots=True)
class Published:
    """The pins as they stand, the correlation id of the command that published them, its note.

    The note is what a break-glass rollback leaves for the ledger: who, when, why.
    """

    pins: Pins
    correlation_id: str | None = None
    note: Mapping[str, Any] | None = None


class Fleet(Protocol):
    """The verbs' side publishes and waits; the agents' side follows and reports."""

    def publish(
        self,
        pins: Pins,
        *,
        correlation_id: str | None = None,
        note: Mapping[str, Any] | None = None,
    ) -> Pins:
        """Make `pins` stand unless a higher generation does; returns what stands afterwards.

        Pins of another epoch that are not older stay too: they are recorded first. Raises
        PinsTooNew where a later release has published.
        """

    def published(self) -> Published | None:
        """What stands; None before the first publishing. Raises PinsError, FleetUnreachable."""

    def reports(self) -> tuple[Report, ...]:
        """The latest report of each server of the roster, by name.

        One that cannot be read stands as that of a server long down, with the reason as `error`.
        """

    def watch(self, timeout_s: float) -> Iterator[tuple[Report, ...]]:
        """The reports now, at each change, and now and then, until `timeout_s` has passed."""

    def forget(self, server: str) -> bool:
        """Strike a server off the roster; False when it was not on it."""

    def report(self, report: Report) -> None:
        """Put an agent's report where the verbs read it."""

    def follow(self, poll_s: float) -> AsyncIterator[None]:
        """Wake whenever the published pins may have changed, and every `poll_s` seconds."""
