"""What a command has settled, told to the fleet's onlookers. Nothing depends on it.

What is told stands in the rows that carry the command's correlation id: nobody has to hand it
over, and a move that was undone on the way is told as well.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from modelswitch.effects import correlation_id
from modelswitch.errors import ModelSwitchError
from modelswitch.fleet.protocol import Fleet, Published
from modelswitch.ledger import Event, Ledger
from modelswitch.line import Line, Slot, version_of
from modelswitch.moves import news
from modelswitch.pins import PinnedModel

log = structlog.get_logger("modelswitch.moves")

_LATEST = 8  # rows of a model among which the command's own are looked for


class Announcer:
    """Tells each row once. A refusal, by the ledger or the fleet, is a line in the log."""

    def __init__(self, ledger: Ledger, fleet: Fleet) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._told = 0

    def tell(self, model: str, states: Mapping[str, str] | None = None) -> None:
        """What this command has settled of `model`; `states` of its servers, where known."""
        try:
            rows = {row.seq: row for row in self._ledger.history(model, _LATEST)}
            for seq, row in sorted(rows.items()):
                if seq > self._told and row.correlation_id == correlation_id():
                    self._tell(row, rows.get(row.parent or 0), states)
        except ModelSwitchError as error:
            log.debug("moves.not_announced", model=model, why=error.message)

    def tell_break_glass(self, model: str) -> None:
        """The rollback that this command has published, if it has."""
        try:
            published = self._fleet.published()
            pinned = published.pins.models.get(model) if published else None
            if published and pinned and published.correlation_id == correlation_id():
                self._tell_break_glass(model, pinned, published)
        except ModelSwitchError as error:
            log.debug("moves.not_announced", model=model, why=error.message)

    def _tell(self, row: Event, parent: Event | None, states: Mapping[str, str] | None) -> None:
        if row.action == "rollback" and states is None:
            states = self._follow(row.model, row.head.line)
        told = news.of_row(row, parent, states or {})
        if told is not None:
            self._told = row.seq
            self._fleet.announce(told)

    def _tell_break_glass(self, model: str, pinned: PinnedModel, published: Published) -> None:
        note = published.note or {}
        left, now = (_slot(pinned, label) for label in (note.get("leaves"), pinned.default))
        line = Line((now,) if now else (), pool=pinned.pool)
        actor = note.get("claimed") or note.get("os_user") or "somebody"
        who = f"by {actor}: {note.get('reason')} (break-glass)"
        states = self._follow(model, line)
        self._fleet.announce(news.of_rollback(model, left, line, who, states))

    def _follow(self, model: str, line: Line) -> dict[str, str]:
        """Which servers answer with the line's default, by name."""
        wanted = line.default
        return {
            report.server: "proven"
            if wanted and report.proves(model, wanted.label, wanted.digest)
            else "behind"
            for report in self._fleet.reports()
            if report.pool == line.pool
        }


def _slot(pinned: PinnedModel, label: str | None) -> Slot | None:
    found = pinned.slots.get(label or "")
    return Slot(version_of(label or ""), found.digest) if found else None
