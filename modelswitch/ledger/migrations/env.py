"""Run by alembic; the connection, its transaction and its lock are `schema.migrate`'s."""

from __future__ import annotations

from alembic import context

from modelswitch.ledger.database import SCHEMA
from modelswitch.ledger.schema import VERSION_TABLE

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    version_table=VERSION_TABLE,
    version_table_schema=SCHEMA if connection.dialect.name == "postgresql" else None,
)
context.run_migrations()
