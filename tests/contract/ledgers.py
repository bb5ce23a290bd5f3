"""What the ledger's contract suites share: short names for rows, and ledgers to put them in."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from modelswitch.ledger import Draft, Ledger, MemoryLedger, SqlLedger, open_ledger
from modelswitch.ledger.schema import leases
from modelswitch.line import Kind, Line, Slot


def slot(version: int, *, workers: int = 1) -> Slot:
    return Slot(str(version), f"sha256:{version:08x}" + "0" * 56, workers)


def line(*serving: int, candidates: tuple[int, ...] = ()) -> Line:
    return Line(tuple(map(slot, serving)), tuple(map(slot, candidates)))


def settled(parent: int, held: Line, *, model: str = "digits", action: str = "promote") -> Draft:
    return Draft(
        model=model, parent=parent, kind=Kind.SETTLED, action=action, line=held, os_user="anna"
    )


def note(model: str = "digits") -> Draft:
    return Draft(model=model, parent=None, kind=Kind.NOTE, action="note", reason="seen")


@dataclass
class Subject:
    """A ledger, where to open it again, and a way to make a lease look old to its database."""

    ledger: Ledger
    age_leases: Callable[[], None]
    url: str = ""
    deployment: str = "local"


class Clock:
    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def memory_subject() -> Subject:
    clock = Clock()

    def age() -> None:
        clock.ahead += timedelta(seconds=16)

    return Subject(MemoryLedger(clock=clock), age)


def sql_subject(url: str) -> Subject:
    ledger = open_ledger(url, f"d-{uuid.uuid4().hex[:12]}")

    def age() -> None:
        with ledger.engine.begin() as connection:
            connection.execute(sa.update(leases).values(expires_at="2001-01-01T00:00:00.000Z"))

    return Subject(ledger, age, url, ledger.deployment)


def sql_url(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    if kind == "sqlite":
        return f"sqlite:///{folder / 'ledger.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


def ledger_of(subject: Subject) -> SqlLedger:
    assert isinstance(subject.ledger, SqlLedger)
    return subject.ledger


def execute(ledger: SqlLedger, statement: str, **values: object) -> None:
    if ledger.engine.dialect.name == "sqlite":
        statement = statement.replace("modelswitch.", "")
    with ledger.engine.begin() as connection:
        connection.execute(sa.text(statement), {"d": ledger.deployment, **values})
