"""Rooms are opened when used, and say in whose folder they looked."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelswitch.errors import LedgerUnreachable
from modelswitch.rooms import Rooms
from modelswitch.settings import Settings


def test_a_folder_without_a_stack_says_that_it_may_be_elsewhere(tmp_path: Path) -> None:
    rooms = Rooms(Settings(root=tmp_path))
    with pytest.raises(LedgerUnreachable, match="no local stack runs for") as error:
        _ = rooms.ledger
    assert str(tmp_path) in error.value.message
    assert "another folder" in (error.value.next or "")
    assert list(tmp_path.iterdir()) == []
