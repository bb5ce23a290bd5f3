"""What pins an agent takes: never older ones, never others under a number it knows.

It keeps what it has taken on disk from that moment, so that a restart needs no fleet.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from modelswitch.effects import correlation_id, effect, set_correlation_id
from modelswitch.errors import PinsError, Temporary
from modelswitch.files import write_whole
from modelswitch.fleet.protocol import Feed
from modelswitch.pins import Pins, parse

log = structlog.get_logger("modelswitch.agent")


class Intake:
    """`pins` are those in force, `refused` says why the published ones are not.

    `recalled`: pins of before a restart were found. `correlation_id` is that of the command that
    published those in force.
    """

    def __init__(self, fleet: Feed, deployment: str, state_dir: Path) -> None:
        self.fleet = fleet
        self.deployment = deployment
        self.file = state_dir / "pins.json"
        self.pins: Pins | None = None
        self.refused: str | None = None
        self.recalled = False
        self.correlation_id: str | None = None
        self._seen: Pins | None = None  # published when they were looked at last

    def recall(self) -> None:
        """Pins taken before a restart hold even while the fleet cannot be reached."""
        try:
            self.pins = parse(self.file.read_text(encoding="utf-8"), source=str(self.file))
        except FileNotFoundError:
            return
        except (PinsError, UnicodeDecodeError) as error:
            log.warning("agent.cache_unreadable", why=str(error))
        else:
            self.recalled = True

    def accept(self) -> bool:
        """Take the published pins if they are newer; True when `pins` or `refused` changed."""
        pins, refused = self.pins, self.refused
        self._accept()
        return self.pins is not pins or self.refused != refused

    def _accept(self) -> None:
        try:
            published = self.fleet.published()
        except (PinsError, Temporary) as error:
            self._refuse(error.message)
            return
        if published is None:
            return
        new = published.pins
        if new is self._seen and self.refused is None:
            return
        self._seen = new
        if self.pins is not None and new.text == self.pins.text:
            self.refused = None
            return
        why = self._objection(new)
        if why is not None:
            self._refuse(why)
            return
        set_correlation_id(published.correlation_id)
        try:
            with effect("agent.accept", generation=new.generation):
                self.file.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self.file, new.text)
        except OSError as error:  # a full disk
            self._refuse(
                f"pins of generation {new.generation} are not taken: they cannot be kept in "
                f"{self.file} ({error.strerror or error})"
            )
            return
        self.pins = new
        self.refused = None
        self.correlation_id = correlation_id()

    def _objection(self, new: Pins) -> str | None:
        if new.deployment != self.deployment:
            return (
                f"refused pins of the deployment {new.deployment!r}: this server belongs to "
                f"{self.deployment!r}"
            )
        if self.pins is None or new.generation > self.pins.generation:
            return None
        if new.generation < self.pins.generation:
            return (
                f"refused pins of generation {new.generation}: this server has taken "
                f"{self.pins.generation}"
            )
        return (
            f"refused pins of generation {new.generation}: they differ from those this server "
            "took under the same number"
        )

    def _refuse(self, why: str) -> None:
        if self.refused != why:
            log.warning("agent.refused", why=why)
        self.refused = why
