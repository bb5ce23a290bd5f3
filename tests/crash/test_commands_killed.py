"""SIGKILL at every boundary of every verb; the next command line leaves one story."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from modelswitch.line import Slot
from tests.crash.nursery import WHO, Command, killed_at, ledger_of
from tests.crash.story import assert_one_story, with_witnesses
from tests.site import Site

Prepare = Callable[[Site, str], Slot | None]
MOST_BOUNDARIES = 60


def nothing(site: Site, model: str) -> Slot:
    return site.slot("1", model)


def one_serves(site: Site, model: str) -> Slot:
    site.promote(site.slot("1", model), model)
    return site.slot("2", model)


def one_serves_two_waits(site: Site, model: str) -> Slot:
    two = one_serves(site, model)
    site.stage(two, model)
    return two


def two_serves(site: Site, model: str) -> None:
    site.promote(one_serves(site, model), model)


def two_serves_before_it_one(site: Site, model: str) -> Slot:
    two_serves(site, model)
    return site.slot("1", model)


def two_was_left(site: Site, model: str) -> Slot:
    two_serves(site, model)
    site.rollback(model)
    return site.slot("2", model)


def two_is_prepared(site: Site, model: str) -> None:
    leave_open(site, model, one_serves(site, model), commit=False)


def two_is_committed(site: Site, model: str) -> None:
    leave_open(site, model, one_serves_two_waits(site, model), commit=True)


def leave_open(site: Site, model: str, slot: Slot, *, commit: bool) -> None:
    with site.moves._at_work(model) as work:
        target = work.head.line.promoted(slot)
        work.append(
            work.head.commit(target) if commit else work.head.prepare(target), "promote", WHO
        )


# What stands before, the verb, and the versions that may serve in the end.
VERBS: dict[str, tuple[Prepare, str, set[str | None]]] = {
    "stage the first": (nothing, "stage", {None}),
    "stage": (one_serves, "stage", {"1"}),
    "promote the first": (nothing, "promote", {None, "1"}),
    "promote cold": (one_serves, "promote", {"1", "2"}),
    "promote warm": (one_serves_two_waits, "promote", {"1", "2"}),
    "rollback": (two_serves, "rollback", {"1", "2"}),
    "rollback by break-glass": (two_serves, "break-glass", {"1", "2"}),
    "rollback of what is prepared": (two_is_prepared, "resume", {"1"}),
    "resume what is committed": (two_is_committed, "resume", {"1", "2"}),
    "retire the way back": (two_serves_before_it_one, "retire", {"2"}),
    "retire the candidate": (one_serves_two_waits, "retire", {"1"}),
    "retire the model": (two_serves, "retire", {"2", None}),
    "lift": (two_was_left, "lift", {"1"}),
}


@pytest.mark.parametrize("then", ["resume", "stage another"])
@pytest.mark.parametrize("case", VERBS)
def test_a_killed_command_leaves_what_the_next_one_settles(
    tmp_path: Path, case: str, then: str
) -> None:
    prepare, verb, may_serve = VERBS[case]
    made = Site(tmp_path, ledger=ledger_of(tmp_path))
    wrong = with_witnesses(made)
    kills = 0
    with made as site:
        for boundary in range(1, MOST_BOUNDARIES):
            model = f"m{boundary}"
            command = Command(tmp_path, verb, model, prepare(site, model))
            was_killed = killed_at(command, boundary)
            kills += was_killed
            if then == "resume":
                Command(tmp_path, "resume", model).run(site.moves)
            else:
                site.stage(site.slot("9", model), model)
            assert_one_story(site, model)
            row = site.ledger.head(model)
            serves = row.head.default if row else None
            assert (serves.version if serves else None) in may_serve, boundary
            if not was_killed:
                break
        else:
            pytest.fail("the command never came to its end")
    assert kills >= 2
    assert wrong == []


def test_the_boundaries_lie_around_every_row_and_every_publishing(tmp_path: Path) -> None:
    listed = tmp_path / "boundaries"
    with Site(tmp_path / "site", ledger=ledger_of(tmp_path / "site")) as site:
        command = Command(tmp_path / "site", "promote", "digits", one_serves(site, "digits"))
        assert not killed_at(command, listed)
    found = Counter(line.partition(" ")[2] for line in listed.read_text().splitlines())
    # A cold promotion: prepared, committed, settled. The last changes no pins.
    sides = ("before", "after")
    assert found == {f"ledger.append {side}": 3 for side in sides} | {
        f"fleet.publish {side}": 2 for side in sides
    }
