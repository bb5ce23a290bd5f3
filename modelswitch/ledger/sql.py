"""The ledger on PostgreSQL or SQLite (SQLAlchemy Core)."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine, RowMapping

from modelswitch.effects import effect
from modelswitch.errors import LedgerCorrupt, Temporary
from modelswitch.ledger import chain, database, schema
from modelswitch.ledger.events import Draft, Event
from modelswitch.ledger.leases import LEASE_S, Lease
from modelswitch.ledger.protocol import EPOCH, Ledger, Snapshot
from modelswitch.ledger.schema import events, leases

_NOT_NOTES = events.c.parent.is_not(None)


def open_ledger(url: str, deployment: str) -> SqlLedger:
    """The ledger of a deployment; connects, and migrates if need be, at its first use."""
    return SqlLedger(database.connect(url), deployment)


class SqlLedger(Ledger):
    """Safe for threads. `close` it to give back its connections."""

    def __init__(self, engine: Engine, deployment: str) -> None:
        self.engine = engine
        self.deployment = deployment
        self._opening = threading.Lock()
        self._is_open = False
        self._ours = events.c.deployment == deployment

    def close(self) -> None:
        self.engine.dispose()

    def head(self, model: str) -> Event | None:
        with self._transaction() as connection:
            return self._find_head(connection, model)

    def heads(self) -> dict[str, Event]:
        return self.snapshot().heads

    def snapshot(self) -> Snapshot:
        newest = sa.select(sa.func.max(events.c.seq)).where(self._ours)
        heads = newest.where(_NOT_NOTES).group_by(events.c.model)
        # One statement sees one moment, at any isolation level.
        wanted = sa.or_(
            events.c.seq.in_(heads.scalar_subquery()), events.c.seq == newest.scalar_subquery()
        )
        with self._transaction() as connection:
            rows = self._select(connection, wanted, events.c.seq.asc())
        return Snapshot(
            {e.model: e for e in rows if not e.is_note}, rows[-1].generation if rows else 0, EPOCH
        )

    def append(self, draft: Draft, *, above: int = 0) -> Event:
        with effect("ledger.append", model=draft.model, kind=str(draft.kind), action=draft.action):
            try:
                with self._transaction(writes=True) as connection:
                    return self._append(connection, draft, above)
            except exc.IntegrityError as error:
                raise self._overtaken(draft) from error

    def _append(self, connection: Connection, draft: Draft, above: int) -> Event:
        role, at = self._lock(connection)
        newest = self._select(connection, sa.true(), events.c.seq.desc(), limit=1)
        head = self._find_head(connection, draft.model)
        if not chain.stands_on(draft, head):
            raise chain.superseded(draft, self._find_child(connection, draft))
        event = chain.seal(
            draft,
            last=newest[0] if newest else None,
            head=head,
            above=above,
            deployment=self.deployment,
            database_role=role,
            at=datetime.fromisoformat(at),
        )
        data = event.to_json()
        connection.execute(sa.insert(events).values(**data.pop("actor"), **data))
        return event

    def _lock(self, connection: Connection) -> tuple[str | None, str]:
        """Wait for the deployment's append lock; who we are to the database, and its time."""
        now = database.clock(self.engine)
        if self.engine.dialect.name == "sqlite":  # BEGIN IMMEDIATE has it already
            return None, connection.execute(sa.select(now)).scalar_one()
        connection.execute(sa.select(self._append_lock()))
        role, at = connection.execute(sa.select(sa.func.current_user(), now)).one()
        return role, at

    def _append_lock(self) -> sa.ColumnElement[None]:
        key = hashlib.sha256(f"modelswitch:{self.deployment}".encode()).digest()[:8]
        return sa.func.pg_advisory_xact_lock(int.from_bytes(key, "big", signed=True))

    def _overtaken(self, draft: Draft) -> Exception:
        """Somebody wrote without the append lock, and the table's constraints stopped us."""
        with self._transaction() as connection:
            winner = self._find_child(connection, draft)
        if winner is not None:
            return chain.superseded(draft, winner)
        return Temporary(
            f"this {draft.action} of {draft.model} was not recorded: another program wrote to the "
            "ledger at the same moment",
            next="run the command again",
        )

    def history(self, model: str | None = None, limit: int | None = None) -> list[Event]:
        which = sa.true() if model is None else events.c.model == model
        with self._transaction() as connection:
            return self._select(connection, which, events.c.seq.desc(), limit=limit)

    def verify(self) -> int:
        query = sa.select(events).where(self._ours).order_by(events.c.seq)
        with self._transaction() as connection:
            rows = connection.execution_options(yield_per=1000).execute(query).mappings()
            return chain.verify(_event(row) for row in rows)

    def take_lease(self, model: str, holder: str) -> bool:
        insert = (postgresql if self.engine.dialect.name == "postgresql" else sqlite).insert(leases)
        times = self._lease_times()
        query = (
            insert.values(deployment=self.deployment, model=model, id=holder, **times)
            .on_conflict_do_update(
                index_elements=["deployment", "model"],
                set_={"id": holder, **times},
                where=sa.or_(
                    leases.c.id == holder, leases.c.expires_at <= database.clock(self.engine)
                ),
            )
            .returning(leases.c.id)
        )
        with self._transaction(writes=True) as connection:
            return connection.execute(query).first() is not None

    def find_lease(self, model: str) -> Lease | None:
        query = sa.select(leases).where(
            leases.c.deployment == self.deployment,
            leases.c.model == model,
            leases.c.expires_at > database.clock(self.engine),
        )
        with self._transaction() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            return None
        renewed, expires = (datetime.fromisoformat(row[c]) for c in ("renewed_at", "expires_at"))
        return Lease(row["id"], row["model"], renewed, expires)

    def renew(self, holder: str) -> bool:
        query = sa.update(leases).where(*self._held_by(holder)).values(**self._lease_times())
        with self._transaction(writes=True) as connection:
            return connection.execute(query).rowcount > 0

    def release(self, holder: str) -> None:
        with self._transaction(writes=True) as connection:
            connection.execute(sa.delete(leases).where(*self._held_by(holder)))

    def _lease_times(self) -> dict[str, sa.ColumnElement[str]]:
        return {
            "renewed_at": database.clock(self.engine),
            "expires_at": database.clock(self.engine, plus_s=LEASE_S),
        }

    def _held_by(self, holder: str) -> tuple[sa.ColumnElement[bool], ...]:
        return leases.c.deployment == self.deployment, leases.c.id == holder

    def _find_head(self, connection: Connection, model: str) -> Event | None:
        which = sa.and_(events.c.model == model, _NOT_NOTES)
        rows = self._select(connection, which, events.c.seq.desc(), limit=1)
        return rows[0] if rows else None

    def _find_child(self, connection: Connection, draft: Draft) -> Event | None:
        which = sa.and_(events.c.model == draft.model, events.c.parent == draft.parent)
        rows = self._select(connection, which, events.c.seq.asc(), limit=1)
        return rows[0] if rows else None

    def _select(
        self,
        connection: Connection,
        which: sa.ColumnElement[bool],
        order: sa.ColumnElement[Any],
        *,
        limit: int | None = None,
    ) -> list[Event]:
        query = sa.select(events).where(self._ours, which).order_by(order).limit(limit)
        return [_event(row) for row in connection.execute(query).mappings()]

    @contextmanager
    def _transaction(self, *, writes: bool = False) -> Iterator[Connection]:
        with self._opening:
            if not self._is_open:
                schema.ensure(self.engine)
                self._is_open = True
        with database.transaction(self.engine, writes=writes) as connection:
            yield connection


def _event(row: RowMapping) -> Event:
    data = dict(row)
    actor = {name: data.pop(name) for name in ("database_role", "os_user", "claimed")}
    try:
        return Event.from_json({**data, "actor": actor})
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerCorrupt(
            f"the ledger does not hold at event {row['seq']}: it is no event: {error}",
            next="somebody changed the table by hand: compare it with a backup",
        ) from error
