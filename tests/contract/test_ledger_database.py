"""What only a real database can show: tampering, crashes, first starts, errors, rights."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from ledgers import (
    Subject,
    execute,
    ledger_of,
    line,
    note,
    settled,
    sql_subject,
    sql_url,
)

from modelswitch.effects import CRASH_VARIABLE
from modelswitch.errors import (
    LedgerCorrupt,
    LedgerUnreachable,
    ModelSwitchError,
    Superseded,
    Temporary,
)
from modelswitch.ledger import SqlLedger, database, migrate, open_ledger, schema

KINDS = ["sqlite", "postgresql"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=KINDS)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    made = sql_subject(sql_url(request.param, request, tmp_path))
    yield made
    ledger_of(made).close()


@pytest.fixture
def ledger(subject: Subject) -> SqlLedger:
    return ledger_of(subject)


@pytest.fixture(params=KINDS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database in which ModelSwitch has never been."""
    url = sql_url(request.param, request, tmp_path)
    if request.param == "sqlite":
        return url
    name = f"fresh_{uuid.uuid4().hex[:8]}"
    engine = database.connect(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return url.replace("/postgres?", f"/{name}?")


# -- append-only, and what shows when somebody got around it -------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE modelswitch.events SET reason = 'better' WHERE deployment = :d",
        "DELETE FROM modelswitch.events WHERE deployment = :d",
    ],
)
def test_the_database_refuses_to_change_or_delete_rows(ledger: SqlLedger, statement: str) -> None:
    ledger.append(settled(0, line(1)))

    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        execute(ledger, statement)

    assert ledger.verify() == 1


def test_postgresql_refuses_to_truncate(postgres_ledger: SqlLedger) -> None:
    postgres_ledger.append(settled(0, line(1)))

    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        execute(postgres_ledger, "TRUNCATE modelswitch.events")


def copy_row(role: str = "database_role") -> str:
    names = [c.name for c in schema.events.columns]
    values = [role if name == "database_role" else name for name in names]
    return (
        f"INSERT INTO modelswitch.events ({', '.join(names)}) "  # noqa: S608
        f"SELECT {', '.join(values)} FROM modelswitch.events WHERE deployment = :d"
    )


def test_a_row_cannot_be_replaced(ledger: SqlLedger) -> None:
    ledger.append(settled(0, line(1)))
    replacing = copy_row()
    if ledger.engine.dialect.name == "sqlite":
        replacing = replacing.replace("INSERT", "INSERT OR REPLACE")

    with pytest.raises(sa.exc.IntegrityError):
        execute(ledger, replacing)


def test_postgresql_refuses_a_row_in_another_roles_name(postgres_ledger: SqlLedger) -> None:
    written = postgres_ledger.append(settled(0, line(1)))

    assert written.actor.database_role == "postgres"
    with pytest.raises(sa.exc.DBAPIError, match="names the role that writes it"):
        execute(postgres_ledger, copy_row("'somebody'"))


def unguarded(ledger: SqlLedger, statement: str) -> None:
    """Change the table as somebody with all rights could."""
    if ledger.engine.dialect.name == "postgresql":
        with ledger.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            connection.execute(sa.text(statement), {"d": ledger.deployment})
        return
    for name in ("update", "delete", "replace"):
        execute(ledger, f"DROP TRIGGER events_no_{name}")
    execute(ledger, statement)


@pytest.mark.parametrize(
    ("change", "seq"),
    [
        ("UPDATE modelswitch.events SET reason = 'better' WHERE seq = 2", 2),
        ("UPDATE modelswitch.events SET claimed = 'bert' WHERE seq = 3", 3),
        ("UPDATE modelswitch.events SET at = '2001-01-01T00:00:00.000000Z' WHERE seq = 1", 1),
        ("UPDATE modelswitch.events SET kind = 'bogus' WHERE seq = 2", 2),
        ("UPDATE modelswitch.events SET line = '{\"serving\": 7}' WHERE seq = 2", 2),
        ("UPDATE modelswitch.events SET generation = 9 WHERE seq = 2", 2),
        ("DELETE FROM modelswitch.events WHERE seq = 2", 3),
        ("DELETE FROM modelswitch.events WHERE seq = 1", 2),
    ],
)
def test_verify_names_the_first_row_that_does_not_hold(
    ledger: SqlLedger, change: str, seq: int
) -> None:
    ledger.append(settled(0, line(1)))
    ledger.append(settled(1, line(2, 1)))
    ledger.append(settled(2, line(3, 2)))
    ledger.append(note())

    unguarded(ledger, f"{change} AND deployment = :d")

    with pytest.raises(LedgerCorrupt, match=f"at event {seq}:"):
        ledger.verify()


# -- crashes -------------------------------------------------------------------------------------

_APPEND = """
import os, signal, sys
import sqlalchemy as sa
from modelswitch.ledger import Draft, open_ledger
from modelswitch.line import Kind, Line

url, deployment, die = sys.argv[1:]
ledger = open_ledger(url, deployment)

@sa.event.listens_for(ledger.engine, "after_cursor_execute")
def after(connection, cursor, statement, *_):
    if die == "inserted" and statement.startswith("INSERT INTO") and "events" in statement:
        os.kill(os.getpid(), signal.SIGKILL)

print(ledger.head("digits").seq, flush=True)
ledger.append(Draft(model="digits", parent=1, kind=Kind.SETTLED, action="x", line=Line()))
"""


@pytest.mark.parametrize(
    ("die", "crash_at", "rows"),
    [("inserted", "", 1), ("", "1", 1), ("", "2", 2)],
    ids=["with the lock and the row", "before the effect", "after the effect"],
)
def test_a_writer_that_is_killed_leaves_a_whole_row_or_none(
    subject: Subject, die: str, crash_at: str, rows: int
) -> None:
    ledger = ledger_of(subject)
    ledger.append(settled(0, line(1)))

    dead = subprocess.run(
        [sys.executable, "-c", _APPEND, subject.url, subject.deployment, die],
        env={**os.environ, CRASH_VARIABLE: crash_at},
        timeout=60,
        check=False,
        capture_output=True,
    )

    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert dead.stdout.startswith(b"1\n")
    assert ledger.verify() == rows
    assert ledger.append(settled(rows, line(2, 1))).seq == rows + 1


def test_a_connection_lost_while_committing_is_called_unknown(postgres_ledger: SqlLedger) -> None:
    postgres_ledger.append(settled(0, line(1)))

    def cut(connection: sa.Connection) -> None:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with postgres_ledger.engine.connect() as other:
            other.execute(sa.select(sa.func.pg_terminate_backend(pid, 5000)))

    sa.event.listen(postgres_ledger.engine, "commit", cut, once=True)
    with pytest.raises(LedgerUnreachable, match="whether the row was written is not known"):
        postgres_ledger.append(settled(1, line(2, 1)))

    assert postgres_ledger.append(settled(1, line(3, 1))).seq == 2


def test_a_restarted_database_is_found_again(postgres_ledger: SqlLedger) -> None:
    postgres_ledger.append(settled(0, line(1)))
    killer = database.connect(str(postgres_ledger.engine.url))
    with killer.begin() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE application_name = 'modelswitch' AND pid <> pg_backend_pid()"
        )
    killer.dispose()

    assert postgres_ledger.append(settled(1, line(2, 1))).seq == 2


# -- first starts, revisions -----------------------------------------------------------------------


def start_alone(url: str, number: int) -> int:
    ledger = open_ledger(url, f"d{number}")
    seq = ledger.append(note()).seq
    ledger.close()
    return seq


def test_first_starts_at_once_do_not_collide(empty_url: str) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(start_alone, empty_url, n) for n in range(4)]

        assert [run.result() for run in runs] == [1] * 4


def test_the_migrations_make_the_tables_the_code_knows(empty_url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = database.connect(empty_url)
    migrate(engine)
    migrate(engine)  # again: nothing to do

    def ours(name: str | None, kind: str, parents: object) -> bool:
        return kind != "schema" or name in (None, "modelswitch")

    is_sqlite = engine.dialect.name == "sqlite"
    known = sa.MetaData()
    for table in schema.metadata.tables.values():
        table.to_metadata(known, schema=None if is_sqlite else "modelswitch")
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": not is_sqlite,
                "include_name": ours,
                "version_table": schema.VERSION_TABLE,
                "version_table_schema": None if is_sqlite else "modelswitch",
            },
        )
        assert compare_metadata(context, known) == []
        assert context.get_current_revision() == schema.REVISION
    engine.dispose()


def test_mlflows_own_revision_is_left_alone(empty_url: str) -> None:
    engine = database.connect(empty_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num varchar(32))")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('mlflow')")

    open_ledger(empty_url, "local").append(note())

    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars()
        assert list(found) == ["mlflow"]
    engine.dispose()


def test_a_newer_schema_is_refused(empty_url: str) -> None:
    first = open_ledger(empty_url, "local")
    first.append(note())
    execute(first, "UPDATE modelswitch.modelswitch_version SET version_num = '0999'")

    with pytest.raises(ModelSwitchError, match="0999") as refused:
        open_ledger(empty_url, "local").head("digits")

    assert refused.value.next == "upgrade modelswitch on this machine"
    first.close()


# -- the table and the clock speak --------------------------------------------------------------


def test_a_writer_that_ignores_the_lock_is_stopped_by_the_table(
    ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    winner = ledger.append(settled(0, line(1)))
    monkeypatch.setattr(ledger, "_find_head", lambda *_: None)  # as one that read before the lock

    with pytest.raises(Superseded) as told:
        ledger.append(settled(0, line(2)))

    assert told.value.winner == winner
    monkeypatch.setattr(ledger, "_select", lambda *_, **__: [])
    with pytest.raises(Temporary, match="another program"):
        ledger.append(settled(0, line(2), model="faces"))


def test_times_are_the_databases(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.take_lease("digits", "anna")
    before = ledger.append(note()).at

    class Late:
        now = staticmethod(lambda *_: pytest.fail("our own clock was asked"))
        fromisoformat = staticmethod(__import__("datetime").datetime.fromisoformat)

    monkeypatch.setattr("modelswitch.ledger.sql.datetime", Late)
    monkeypatch.setattr("time.time", lambda: 0.0)

    assert ledger.append(note()).at >= before
    assert ledger.find_lease("digits") is not None
    assert not ledger.take_lease("digits", "bert")
