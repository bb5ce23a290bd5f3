"""What the verbs and the agents ask of a fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from modelswitch.errors import PinsError
from modelswitch.pins import MAX_BYTES, Pins
from modelswitch.reports import Report


@dataclass(frozen=True, slots=True)
class Published:
    """The pins as they stand, the correlation id of the command that published them, its note.

    The note is what a break-glass rollback leaves for the ledger: who, when, why.
    """

    pins: Pins
    correlation_id: str | None = None
    note: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Calls:
    """How often an API server was asked, and how often in vain."""

    requests: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class News:
    """What became of a move, for whoever looks at a pool. `reason` is one word: `Promoted`."""

    pool: str
    reason: str
    text: str
    is_bad: bool = False


class Fleet(Protocol):
    """What commands see: they publish, and read what agents report."""

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

    def write(self, pins: Pins) -> Path:
        """Write pins where a pull request takes them from, and publish nothing; the file.

        Raises UsageError where there is no such file.
        """

    def published(self) -> Published | None:
        """What stands; None before the first publishing. Raises PinsError, FleetUnreachable."""

    def reports(self) -> tuple[Report, ...]:
        """The latest report of each server of the roster, by name.

        One that cannot be read stands as that of a server long down, with the reason as `error`.
        """

    def watch(self, timeout_s: float) -> Iterator[tuple[Report, ...]]:
        """The reports now, at each change, and now and then, until `timeout_s` has passed."""

    def how_to_start(self) -> str:
        """The command that brings servers, where there is none."""

    def how_to_forget(self, server: str) -> str:
        """The command that strikes a server off the roster."""

    def forget(self, server: str) -> bool:
        """Strike a server off the roster; False when it was not on it."""

    def announce(self, news: News) -> None:
        """Tell it where people look at the servers of a pool, if there is such a place.

        Raises FleetUnreachable; nothing depends on it.
        """


class Feed(Protocol):
    """What one agent sees: it follows what is published, and reports."""

    def published(self) -> Published | None:
        """As the fleet's own."""

    @property
    def calls(self) -> Calls | None:
        """To the API server, since the start; None where there is none."""

    @property
    def unread(self) -> str | None:
        """Why the latest pins may not have been seen since this start; None once they were."""

    def report(self, report: Report, pins: Pins | None = None) -> None:
        """Put an agent's report where the verbs read it; `pins` are those that it follows."""

    def follow(self, poll_s: float) -> AsyncIterator[None]:
        """Wake whenever the published pins may have changed, and every `poll_s` seconds."""


def stays(standing: Pins, new: Pins) -> bool:
    """Whether `standing` is not to be written over by `new`."""
    if standing.epoch != new.epoch:
        return standing.generation >= new.generation
    return standing.generation > new.generation or standing.text == new.text


def check_size(pins: Pins) -> None:
    """Raise PinsError on a document that no ConfigMap holds."""
    size = len(pins.text.encode())
    if size > MAX_BYTES:
        raise PinsError(
            f"the pins are {size:,} bytes, more than {MAX_BYTES:,}",
            next="retire models or candidates, or split them over deployments",
        )
