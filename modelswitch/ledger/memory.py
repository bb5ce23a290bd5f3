"""A ledger in memory, for pure tests: the same rules under the same contract suite."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from modelswitch.effects import effect
from modelswitch.ledger import chain
from modelswitch.ledger.events import Draft, Event
from modelswitch.ledger.leases import LEASE_S, Lease
from modelswitch.ledger.protocol import EPOCH, Ledger, Snapshot


def _utc_now() -> datetime:
    return datetime.now(UTC)


class MemoryLedger(Ledger):
    """Shared by threads, not by processes. `clock` stands in for the database's."""

    def __init__(self, deployment: str = "local", *, clock: Callable[[], datetime] = _utc_now):
        self.deployment = deployment
        self._clock = clock
        self._lock = threading.RLock()
        self._rows: list[Event] = []
        self._leases: dict[str, Lease] = {}

    def head(self, model: str) -> Event | None:
        return self.heads().get(model)

    def heads(self) -> dict[str, Event]:
        with self._lock:
            return {e.model: e for e in self._rows if not e.is_note}

    def snapshot(self) -> Snapshot:
        with self._lock:
            generation = self._rows[-1].generation if self._rows else 0
            return Snapshot(self.heads(), generation, EPOCH)

    def append(self, draft: Draft, *, above: int = 0) -> Event:
        with (
            effect("ledger.append", model=draft.model, kind=str(draft.kind), action=draft.action),
            self._lock,
        ):
            head = self.head(draft.model)
            if not chain.stands_on(draft, head):
                rows = (e for e in self._rows if e.model == draft.model)
                winner = next((e for e in rows if e.parent == draft.parent), None)
                raise chain.superseded(draft, winner)
            event = chain.seal(
                draft,
                last=self._rows[-1] if self._rows else None,
                head=head,
                above=above,
                deployment=self.deployment,
                database_role=None,
                at=self._clock(),
            )
            self._rows.append(event)
        return event

    def history(self, model: str | None = None, limit: int | None = None) -> list[Event]:
        with self._lock:
            rows = [e for e in reversed(self._rows) if model is None or e.model == model]
        return rows[:limit]

    def verify(self) -> int:
        with self._lock:
            return chain.verify(self._rows)

    def take_lease(self, model: str, holder: str) -> bool:
        with self._lock:
            live = self.find_lease(model)
            if live is not None and live.holder != holder:
                return False
            self._leases[model] = self._fresh(model, holder)
            return True

    def find_lease(self, model: str) -> Lease | None:
        with self._lock:
            lease = self._leases.get(model)
            return lease if lease is not None and lease.expires_at > self._clock() else None

    def renew(self, holder: str) -> bool:
        with self._lock:
            mine = [model for model, lease in self._leases.items() if lease.holder == holder]
            self._leases.update({model: self._fresh(model, holder) for model in mine})
            return bool(mine)

    def release(self, holder: str) -> None:
        with self._lock:
            self._leases = {m: lease for m, lease in self._leases.items() if lease.holder != holder}

    def _fresh(self, model: str, holder: str) -> Lease:
        now = self._clock()
        return Lease(holder, model, now, now + timedelta(seconds=LEASE_S))
