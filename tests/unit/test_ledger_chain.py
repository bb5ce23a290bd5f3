"""The chain, and what importing the ledger costs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modelswitch.errors import LedgerCorrupt
from modelswitch.ledger import Draft, Event, MemoryLedger, verify
from modelswitch.ledger.events import GENESIS
from modelswitch.line import Kind, Line


def chain(length: int = 4) -> list[Event]:
    ledger = MemoryLedger()
    for parent in range(length):
        ledger.append(
            Draft(model="digits", parent=parent, kind=Kind.SETTLED, action="x", line=Line())
        )
    return ledger.history()[::-1]


def sealed(event: Event) -> Event:
    return replace(event, hash=event.computed_hash())


def test_each_row_holds_the_hash_of_the_one_before() -> None:
    rows = chain()

    assert verify(rows) == 4
    assert [r.prev_hash for r in rows] == [GENESIS, *(r.hash for r in rows[:-1])]


def test_a_row_put_in_with_a_good_hash_breaks_the_chain_behind_it() -> None:
    rows = chain()
    forged = sealed(replace(rows[1], reason="better"))

    with pytest.raises(LedgerCorrupt, match="event 3: it does not follow event 2"):
        verify([rows[0], forged, *rows[2:]])


def test_a_fork_is_seen_even_in_a_good_chain() -> None:
    first, second, *_ = chain()
    forked = sealed(replace(second, seq=3, parent=1, prev_hash=second.hash))

    with pytest.raises(LedgerCorrupt, match="event 3: its parent 1 was not digits's head"):
        verify([first, second, forked])


def test_a_number_that_does_not_grow_is_seen() -> None:
    first, second, *_ = chain()

    with pytest.raises(LedgerCorrupt, match="event 1: its number is not above 1"):
        verify([first, sealed(replace(second, seq=1))])


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import modelswitch.ledger", ("sqlalchemy", "psycopg2", "alembic")),
        (
            "from modelswitch.ledger import open_ledger; open_ledger({url!r}, 'x').heads()",
            ("sqlalchemy.orm", "psycopg2", "alembic"),
        ),
    ],
    ids=["the package", "an open ledger that is up to date"],
)
def test_what_is_not_needed_is_not_imported(
    code: str, absent: tuple[str, ...], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    made = "from modelswitch.ledger import open_ledger; open_ledger({url!r}, 'x').heads()"
    subprocess.run([sys.executable, "-c", made.format(url=url)], check=True)

    told = f"{code.format(url=url)}; import sys; print([m for m in {absent!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", told], check=True, capture_output=True)

    assert answer.stdout == b"[]\n"
