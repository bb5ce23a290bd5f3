"""The database behind the ledger: its URL, its transactions, its clock, its errors as ours.

Every call is short: PostgreSQL gives up on a statement after STATEMENT_S, SQLite on a lock
after the same time, and a connection is tried for CONNECT_S.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.pool import NullPool

from modelswitch.errors import (
    LedgerCorrupt,
    LedgerUnreachable,
    ModelSwitchError,
    Refused,
    SettingsError,
)
from modelswitch.ledger.events import canonical

SCHEMA = "modelswitch"  # on PostgreSQL; SQLite has none
CONNECT_S = 5
STATEMENT_S = 10
IDLE_S = 5  # less than a statement's: who waits for a frozen writer's lock still gets it


def connect(url: str) -> Engine:
    """An engine for a PostgreSQL or SQLite URL; nothing is opened yet.

    A bare `postgresql://` means psycopg2 (SQLAlchemy 2.1 would take psycopg 3). Raises
    SettingsError for any other kind of database.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed)
    return _postgresql(parsed)


def _parse(url: str) -> URL:
    # The text itself is not shown: it may hold a password.
    try:
        parsed = sa.make_url(url)
    except exc.ArgumentError as error:
        raise SettingsError(
            "database_url is not a database URL",
            next="postgresql://USER@HOST/DATABASE or sqlite:////path/to/ledger.db",
        ) from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg2")
    if parsed.drivername not in ("postgresql+psycopg2", "sqlite", "sqlite+pysqlite"):
        raise SettingsError(
            f"database_url: {parsed.drivername} cannot hold the ledger",
            next="use postgresql:// (or postgresql+psycopg2://) or sqlite:///",
        )
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise SettingsError(
            "database_url: the ledger on SQLite needs a file of its own",
            next="sqlite:////path/to/ledger.db",
        )
    return parsed


def _sqlite(url: URL) -> Engine:
    engine = sa.create_engine(
        url,
        poolclass=NullPool,
        json_serializer=canonical,
        hide_parameters=True,
        connect_args={"timeout": STATEMENT_S},
        execution_options={"schema_translate_map": {SCHEMA: None}},
    )

    @event.listens_for(engine, "connect")
    def _own_transactions(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's implicit BEGIN comes too late for a lock

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: URL) -> Engine:
    engine = sa.create_engine(
        url,
        # READ COMMITTED whatever the server's default: what is read under the append lock must
        # be what stands after the wait for it.
        isolation_level="READ COMMITTED",
        use_native_hstore=False,  # saves a question at every connection
        pool_size=2,
        pool_timeout=STATEMENT_S,
        pool_pre_ping=True,
        json_serializer=canonical,
        hide_parameters=True,
        connect_args={
            "connect_timeout": CONNECT_S,
            "application_name": "modelswitch",
            "client_encoding": "utf8",
            # A network that swallows packets is noticed too, not only a server that says no.
            "tcp_user_timeout": STATEMENT_S * 1000,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
        },
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Here and not in the connection's options, which connection poolers refuse. The second
        # frees the append lock of a client that froze while it held it.
        connection.exec_driver_sql(
            f"SET LOCAL statement_timeout = '{STATEMENT_S}s'; "
            f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_S}s'"
        )

    return engine


@contextmanager
def transaction(engine: Engine, *, writes: bool = False) -> Iterator[Connection]:
    """One short transaction; on SQLite one that `writes` has the file's lock from its start.

    The database's exceptions leave as ours.
    """
    committing = False
    try:
        with (
            engine.connect().execution_options(writes=writes) as connection,
            connection.begin(),
        ):
            yield connection
            committing = writes
    except exc.IntegrityError:
        raise  # the table's constraints spoke: `append` knows what that means
    except (exc.DBAPIError, exc.TimeoutError) as error:
        raise _ours(error, engine, committing=committing) from error


def clock(engine: Engine, *, plus_s: int = 0) -> sa.ColumnElement[str]:
    """The database's time now, `plus_s` seconds on, as RFC 3339 text in UTC."""
    if engine.dialect.name == "sqlite":
        text = f"strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+{plus_s} seconds')"
    else:  # clock_timestamp, not now(): the transaction may have waited for the append lock
        text = (
            f"to_char((clock_timestamp() + interval '{plus_s} s') AT TIME ZONE 'UTC', "
            """'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
        )
    return sa.literal_column(text, sa.String)


def shown(url: URL) -> str:
    """The URL for people: no password, wherever it stood, and no other options."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    host = url.host or url.query.get("host") or "the local socket"
    port = f":{url.port}" if url.port else ""
    return f"{url.database or url.username or 'postgres'} on {host}{port}"


# What the database or its driver says → what to do.
_ADVICE = {
    "password": "set PGPASSWORD or MODELSWITCH_DATABASE_URL, or add a line to your pgpass file",
    "authentication failed": "check the user in database_url and the server's pg_hba.conf",
    "does not exist": "create it, or correct database_url",
    "too many clients": "the server's connections are used up: try again, or raise max_connections",
    "Name or service not known": "check the host in database_url",
    "could not translate host": "check the host in database_url",
    "unable to open": "check that the folder exists and may be written, or correct database_url",
    "statement timeout": "another command holds it, or the server is overloaded: try again",
    "locked": "another program holds the file: try again; keep the ledger in a file of its own",
    "readonly": "make the file and its folder writable for this user",
    "full": "make room on the database's disk",
}


def _ours(
    error: exc.DBAPIError | exc.TimeoutError, engine: Engine, *, committing: bool
) -> ModelSwitchError:
    where = f"the ledger ({shown(engine.url)})"
    original = error.orig if isinstance(error, exc.DBAPIError) else error
    said = _first_line(str(original), engine.url)
    code = getattr(original, "pgcode", None)
    if code == "42501":  # insufficient_privilege
        return Refused(
            f"{where} does not let this database role do that: {said}",
            next="docs/decisions/0002-one-append-only-table.md lists the rights a role needs",
        )
    if "not a database" in said or "malformed" in said:
        return LedgerCorrupt(
            f"{where} is not a SQLite database that can be read: {said}",
            next="correct database_url, or put back a backup",
        )
    temporary = isinstance(
        error, (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)
    ) or code in ("25006", "57P01", "57P02", "57P03")  # read-only standby, shutting down
    if not temporary:
        return ModelSwitchError(f"{where} answered: {said}")
    advice = next((a for word, a in _ADVICE.items() if word in said), None)
    doubt = "; whether the row was written is not known" if committing else ""
    return LedgerUnreachable(
        f"{where} cannot be used now: {said}{doubt}",
        next="modelswitch history says whether the row stands"
        if committing
        else advice
        or "start it (modelswitch up, if it is the local stack's), or check database_url",
    )


def _first_line(text: str, url: URL) -> str:
    line = " ".join(text.split("\n")[0].split())
    for secret in (url.password, url.query.get("password")):
        if secret:
            line = line.replace(str(secret), "***")
    return line
