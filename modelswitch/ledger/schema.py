"""The ledger's tables, and how a database comes to have them.

A revision is a number of four digits; REVISION is the one this release knows. alembic is
imported only when there is something to migrate.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from modelswitch.errors import ModelSwitchError
from modelswitch.ledger import database
from modelswitch.ledger.database import SCHEMA

REVISION = "0001"
# MLflow's own alembic_version, perhaps in this same database, must not see a second head.
VERSION_TABLE = "modelswitch_version"

metadata = sa.MetaData(schema=SCHEMA)

events = sa.Table(
    "events",
    metadata,
    sa.Column("deployment", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("parent", sa.BigInteger),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("line", sa.JSON(none_as_null=True)),
    sa.Column("target", sa.JSON(none_as_null=True)),
    sa.Column("leaves", sa.JSON(none_as_null=True)),
    sa.Column("holder", sa.Text),
    sa.Column("database_role", sa.Text),
    sa.Column("os_user", sa.Text),
    sa.Column("claimed", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence", sa.JSON(none_as_null=True), nullable=False),
    sa.Column("correlation_id", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),  # the very text that is hashed
    sa.Column("prev_hash", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.UniqueConstraint("deployment", "prev_hash", name="uq_events_prev_hash"),
    sa.UniqueConstraint("deployment", "model", "parent", name="uq_events_parent"),
    sa.Index("ix_events_model", "deployment", "model", "seq"),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("deployment", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("renewed_at", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Text, nullable=False),
)

_version = sa.Table(VERSION_TABLE, metadata, sa.Column("version_num", sa.String(32)))
metadata.remove(_version)  # alembic's own: it makes it


def ensure(engine: Engine) -> None:
    """Bring the database to this release's revision; one query when it is there already.

    Raises ModelSwitchError when a newer release has been there.
    """
    with database.transaction(engine) as connection:
        found = _find_revision(connection)
    if found is None or found < REVISION:
        migrate(engine)
    else:
        _refuse_newer(found)


def migrate(engine: Engine) -> None:
    """Apply what is missing, in one transaction that first starts elsewhere wait for."""
    from alembic import command
    from alembic.config import Config

    with database.transaction(engine, writes=True) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x6D6F64656C)))
            # Not IF NOT EXISTS: that asks for the right to create even when there is nothing to.
            if not sa.inspect(connection).has_schema(SCHEMA):
                connection.execute(sa.schema.CreateSchema(SCHEMA))
        found = _find_revision(connection)
        if found is not None:
            _refuse_newer(found)
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _find_revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE, schema=_schema(connection)):
        return None
    return connection.execute(sa.select(_version.c.version_num)).scalar()


def _refuse_newer(found: str) -> None:
    if found > REVISION:
        raise ModelSwitchError(
            f"the ledger's schema is {found}, this release knows {REVISION}: a newer one was here",
            next="upgrade modelswitch on this machine",
        )


def _schema(connection: Connection) -> str | None:
    return SCHEMA if connection.dialect.name == "postgresql" else None
