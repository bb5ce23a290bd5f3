"""Events, append-only for real, and leases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    schema = "modelswitch" if is_postgresql else None
    op.create_table(
        "events",
        sa.Column("deployment", sa.Text, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("parent", sa.BigInteger),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("line", sa.JSON),
        sa.Column("target", sa.JSON),
        sa.Column("leaves", sa.JSON),
        sa.Column("holder", sa.Text),
        sa.Column("database_role", sa.Text),
        sa.Column("os_user", sa.Text),
        sa.Column("claimed", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("evidence", sa.JSON, nullable=False),
        sa.Column("correlation_id", sa.Text, nullable=False),
        sa.Column("at", sa.Text, nullable=False),
        sa.Column("prev_hash", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.UniqueConstraint("deployment", "prev_hash", name="uq_events_prev_hash"),
        sa.UniqueConstraint("deployment", "model", "parent", name="uq_events_parent"),
        schema=schema,
    )
    op.create_index("ix_events_model", "events", ["deployment", "model", "seq"], schema=schema)
    op.create_table(
        "leases",
        sa.Column("deployment", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("renewed_at", sa.Text, nullable=False),
        sa.Column("expires_at", sa.Text, nullable=False),
        schema=schema,
    )
    for statement in _POSTGRESQL if is_postgresql else _SQLITE:
        op.execute(statement)


_POSTGRESQL = (
    """
    CREATE FUNCTION modelswitch.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the ledger is append-only: % refused', TG_OP;
    END $$
    """,
    """
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON modelswitch.events
    FOR EACH STATEMENT EXECUTE FUNCTION modelswitch.refuse_change()
    """,
    # Without this the role in a row would be one more claim.
    """
    CREATE FUNCTION modelswitch.check_role() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.database_role IS DISTINCT FROM current_user THEN
            RAISE EXCEPTION 'a row names the role that writes it: %, not %',
                current_user, NEW.database_role;
        END IF;
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER own_role BEFORE INSERT ON modelswitch.events
    FOR EACH ROW EXECUTE FUNCTION modelswitch.check_role()
    """,
)

_SQLITE = (
    """
    CREATE TRIGGER events_no_update BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: UPDATE refused'); END
    """,
    """
    CREATE TRIGGER events_no_delete BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: DELETE refused'); END
    """,
    # INSERT OR REPLACE deletes the row in its way without asking the trigger above.
    """
    CREATE TRIGGER events_no_replace BEFORE INSERT ON events
    WHEN EXISTS (
        SELECT 1 FROM events AS e WHERE e.deployment = NEW.deployment AND (
            e.seq = NEW.seq OR e.prev_hash = NEW.prev_hash
            OR (e.model = NEW.model AND e.parent = NEW.parent)
        )
    )
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: the place is taken'); END
    """,
)
