"""Rooms are opened when used, and say in whose folder they looked."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelswitch.errors import LedgerUnreachable
from modelswitch.fleet.kubernetes import KubernetesFleet
from modelswitch.rooms import Rooms
from modelswitch.settings import Fleet, Settings


def test_a_folder_without_a_stack_says_that_it_may_be_elsewhere(tmp_path: Path) -> None:
    rooms = Rooms(Settings(root=tmp_path))
    with pytest.raises(LedgerUnreachable, match="no local stack runs for") as error:
        _ = rooms.ledger
    assert str(tmp_path) in error.value.message
    assert "another folder" in (error.value.next or "")
    assert list(tmp_path.iterdir()) == []


def test_terraform_may_be_allowed_more_after_the_fleet_was_used(tmp_path: Path) -> None:
    rooms = Rooms(Settings(root=tmp_path, fleet=Fleet(kind="kubernetes")))
    fleet = rooms.fleet
    assert isinstance(fleet, KubernetesFleet)
    assert not fleet.allow_other_changes

    rooms.allow_other_changes()

    assert rooms.fleet is fleet
    assert fleet.allow_other_changes
