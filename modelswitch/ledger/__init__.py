"""The ledger: one append-only table that is the whole truth of intent.

It keeps events (a compare-and-swap for each model, a hash chain over the deployment) and
leases, on PostgreSQL or SQLite, and derives from them what is quarantined and where one can go
back to. It may touch its own tables only. It never decides whether a move is allowed, never
publishes, and never changes or deletes a row.

SQLAlchemy is imported with `SqlLedger` or `open_ledger`, alembic only when there is something
to migrate; the rest of this package is pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelswitch.ledger.chain import verify
from modelswitch.ledger.derive import (
    Entry,
    find_quarantine,
    is_quarantined,
    liftable,
    quarantine,
    served_versions,
    since,
    ways_back,
)
from modelswitch.ledger.events import Actor, Draft, Event
from modelswitch.ledger.leases import LEASE_S, RENEW_S, Lease, LeaseKeeper
from modelswitch.ledger.memory import MemoryLedger
from modelswitch.ledger.protocol import Ledger, Snapshot

if TYPE_CHECKING:
    from modelswitch.ledger.schema import migrate
    from modelswitch.ledger.sql import SqlLedger, open_ledger

__all__ = [
    "LEASE_S",
    "RENEW_S",
    "Actor",
    "Draft",
    "Entry",
    "Event",
    "Lease",
    "LeaseKeeper",
    "Ledger",
    "MemoryLedger",
    "Snapshot",
    "SqlLedger",
    "find_quarantine",
    "is_quarantined",
    "liftable",
    "migrate",
    "open_ledger",
    "quarantine",
    "served_versions",
    "since",
    "verify",
    "ways_back",
]


def __getattr__(name: str) -> Any:
    # What needs SQLAlchemy costs a quarter of a second to import: only when asked for.
    if name in ("SqlLedger", "open_ledger"):
        from modelswitch.ledger import sql

        return getattr(sql, name)
    if name == "migrate":
        from modelswitch.ledger import schema

        return schema.migrate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
