"""What the rest of ModelSwitch sees of a ledger."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from modelswitch.ledger.events import Draft, Event
from modelswitch.ledger.leases import Lease
from modelswitch.line import Head

EPOCH = "main"  # of pins that come from the ledger; break-glass pins name their own


class Snapshot(NamedTuple):
    """What is published, as of one moment: each model's head, and the pins' number."""

    heads: dict[str, Event]
    generation: int
    epoch: str

    @property
    def pinned(self) -> dict[str, Head]:
        """What pins are rendered from."""
        return {model: event.head for model, event in self.heads.items() if event.is_pinned}


class Ledger(Protocol):
    """One deployment's events and leases.

    Every method raises LedgerUnreachable when the database does not answer.
    """

    deployment: str

    def head(self, model: str) -> Event | None:
        """The model's newest row that is no note."""

    def heads(self) -> dict[str, Event]:
        """Each model's head."""

    def snapshot(self) -> Snapshot:
        """All heads and the generation, read at one moment."""

    def append(self, draft: Draft, *, above: int = 0) -> Event:
        """Append one row; its seq is above every row's and above `above`.

        Raises Superseded (with `.winner`) when the draft's parent is no longer the head, and
        ValueError when it never was, or when the row's pins could not be rendered.
        """

    def history(self, model: str | None = None, limit: int | None = None) -> list[Event]:
        """Rows, newest first, notes among them; all models' if `model` is None."""

    def verify(self) -> int:
        """Check the whole chain; the number of rows checked. Raises LedgerCorrupt."""

    def take_lease(self, model: str, holder: str) -> bool:
        """Take or renew the model's lease for 15 s; False while another holder's is live."""

    def find_lease(self, model: str) -> Lease | None:
        """The model's lease, if it is live."""

    def renew(self, holder: str) -> bool:
        """Renew whatever the holder has; False if that is nothing any more."""

    def release(self, holder: str) -> None:
        """Give back whatever the holder has."""
