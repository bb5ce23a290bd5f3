"""What a ledger says when its database is away, locked, refuses, or is none."""

from __future__ import annotations

import re
import socket
import threading
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa
from ledgers import execute, line, settled

from modelswitch.errors import (
    LedgerCorrupt,
    LedgerUnreachable,
    ModelSwitchError,
    Refused,
    SettingsError,
)
from modelswitch.ledger import SqlLedger, database, open_ledger

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "form", ["postgresql://u:s3cret@{}/x", "postgresql://u@{}/x?password=s3cret"]
)
def test_a_database_that_is_away_is_said_without_the_password(form: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: nobody else gets it meanwhile
        where = "{}:{}".format(*unused.getsockname())
        with pytest.raises(LedgerUnreachable) as away:
            open_ledger(form.format(where), "local").head("digits")

    text = f"{away.value.message} {away.value.next}"
    assert where in text
    assert "refused" in text
    assert "modelswitch up" in text
    assert "s3cret" not in text


def test_a_missing_database_says_what_to_do(postgres_url: str) -> None:
    url = postgres_url.replace("/postgres?", "/nowhere?")

    with pytest.raises(LedgerUnreachable, match='"nowhere" does not exist') as away:
        open_ledger(url, "local").head("digits")

    assert away.value.next == "create it, or correct database_url"


def test_a_role_without_rights_is_told_so_and_the_documented_ones_are_enough(
    postgres_ledger: SqlLedger, postgres_url: str
) -> None:
    postgres_ledger.append(settled(0, line(1)))
    role = f"deployer_{uuid.uuid4().hex[:8]}"
    execute(postgres_ledger, f"CREATE ROLE {role} LOGIN")
    url = postgres_url.replace("postgres:@", f"{role}:@")
    ledger = open_ledger(url, postgres_ledger.deployment)

    with pytest.raises(Refused, match="permission denied") as refused:
        ledger.head("digits")
    for document in re.findall(r"docs/\S+\.md", refused.value.next or ""):
        text = (ROOT / document).read_text(encoding="utf-8")
        for grant in re.findall(r"^GRANT .*;$", text, re.MULTILINE):
            execute(postgres_ledger, grant.replace("deployer", role))

    written = ledger.append(settled(1, line(2, 1)))
    assert (written.seq, written.actor.database_role) == (2, role)
    assert ledger.take_lease("digits", "anna")
    ledger.release("anna")
    assert ledger.verify() == 2
    ledger.close()


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnreachable, match="nowhere"):
        open_ledger(f"sqlite:///{tmp_path / 'nowhere' / 'ledger.db'}", "local").head("digits")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_text("not a database at all, but long enough to be looked at" * 40)

    with pytest.raises(LedgerCorrupt, match=r"ledger\.db"):
        open_ledger(f"sqlite:///{path}", "local").head("digits")


@pytest.mark.parametrize(
    "url", ["mysql://h/x", "postgresql+asyncpg://h/x", "sqlite://", "nonsense"]
)
def test_a_url_that_cannot_hold_a_ledger(url: str) -> None:
    with pytest.raises(SettingsError, match="database_url"):
        open_ledger(url, "local")


@pytest.mark.parametrize("name", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_a_bare_postgresql_means_psycopg2(name: str) -> None:
    assert database.connect(f"{name}://u@h/x").driver == "psycopg2"


def test_a_locked_file_does_not_hang_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "STATEMENT_S", 1)
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", "local")
    ledger.append(settled(0, line(1)))

    with (
        database.transaction(ledger.engine, writes=True),
        pytest.raises(LedgerUnreachable, match="locked") as away,
    ):
        ledger.append(settled(1, line(2, 1)))

    assert "another program holds the file" in (away.value.next or "")
    assert ledger.append(settled(1, line(2, 1))).seq == 2


def test_a_held_append_lock_does_not_hang_us(
    postgres_ledger: SqlLedger, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "STATEMENT_S", 1)
    postgres_ledger.append(settled(0, line(1)))
    stranger = sa.create_engine(postgres_ledger.engine.url)

    with stranger.begin() as connection:
        held = connection.execute(sa.select(postgres_ledger._append_lock()))
        with pytest.raises(LedgerUnreachable, match="statement timeout"):
            postgres_ledger.append(settled(1, line(2, 1)))
        held.close()

    assert postgres_ledger.append(settled(1, line(2, 1))).seq == 2
    stranger.dispose()


def test_a_writer_that_froze_with_the_lock_loses_it(
    postgres_ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "IDLE_S", 1)
    postgres_ledger.append(settled(0, line(1)))

    with (  # noqa: PT012
        pytest.raises(LedgerUnreachable, match=r"idle-in-transaction|closed the connection"),
        database.transaction(postgres_ledger.engine, writes=True) as frozen,
    ):
        frozen.execute(sa.select(postgres_ledger._append_lock()))
        assert postgres_ledger.append(settled(1, line(2, 1))).seq == 2


def test_many_threads_at_once_share_few_connections(postgres_ledger: SqlLedger) -> None:
    postgres_ledger.append(settled(0, line(1)))
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(5):
                postgres_ledger.snapshot()
        except ModelSwitchError as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
