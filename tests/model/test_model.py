"""The protocol holds in every small world, and dropping any one rule breaks a promise."""

from __future__ import annotations

import pytest

from .checker import Checker, Found, World
from .rules import ALL_RULES, PROMISES, RULES
from .story import tell
from .worlds import SHORT, TELLING, telling


@pytest.mark.parametrize("world", SHORT, ids=lambda w: w.name.replace(" ", "-"))
def test_every_promise_holds_in_every_state(world: World, explored: list[Found]) -> None:
    found = Checker(world).run(max_seconds=120)
    explored.append(found)
    assert found.violation is None, tell(found)
    assert found.complete


@pytest.mark.parametrize("rule", RULES)
def test_dropping_a_rule_breaks_a_promise(rule: str) -> None:
    world, promise = telling(rule)
    found = Checker(world, ALL_RULES - {rule}).run(max_seconds=60)
    assert found.violation is not None
    assert found.violation.promise == promise, tell(found)
    assert len(tell(found).splitlines()) > 2


def test_every_rule_has_its_telling_world_and_every_promise_its_rule() -> None:
    assert TELLING.keys() == RULES.keys()
    assert {promise for _, promise in TELLING.values()} == PROMISES.keys()


def test_a_lost_publishing_leaves_the_finished_unfinished() -> None:
    world = next(w for w in SHORT if w.name == "two promotions and a resume")
    found = Checker(world, ALL_RULES - {"publish_never_lowers"}).run()
    assert found.violation is not None
    assert found.violation.promise == "finished"


def test_a_counterexample_is_told_step_by_step() -> None:
    world, _ = telling("rollback_carries_leaves")
    found = Checker(world, ALL_RULES - {"rollback_carries_leaves"}).run()
    assert tell(found).splitlines() == [
        "In the world of two rollbacks and a resume: broken: "
        "a rollback leaves what its user was shown",
        "  given: row 3 on 2: settled [v3 v2] (adopt)",
        "   1. A (rollback) is shown what serves",
        "   2. A (rollback) reads the head",
        "   3. B (rollback) is shown what serves",
        "   4. A (rollback) appends row 4 on 3: settled [v2 v1] (rollback)",
        "   5. B (rollback) reads the head",
        "      the next step of B (rollback) breaks it",
    ]


def test_a_plan_that_is_applied_too_late_is_told_to_its_end() -> None:
    world, _ = telling("plan_ends_above_its_number")
    found = Checker(world, ALL_RULES - {"plan_ends_above_its_number"}).run()
    assert tell(found).splitlines()[1:] == [
        "  given: row 3 on 2: settled [v2 v1 | v3] (adopt)",
        "   1. A (plan v3) reads the head",
        "   2. A (plan v3) appends row 4 on 3: planned [v2 v1 | v3] → [v3 v2] (promote)",
        "   3. C (give up) reads the head",
        "   4. C (give up) looks at the pins",
        "   5. B (merge) applies pins 4 (default v3; slots v1 v2 v3)",
        "   6. C (give up) appends row 5 on 4: settled [v2 v1 | v3] (give up)",
        "      everybody is killed; all servers are reachable; somebody says resume",
        "      a server accepts",
        "      a server activates v3",
        "      a server accepts",
        "      a server activates v3",
        "      the resume reads the head",
        "      the resume is told that something else wrote the pins",
    ]


def test_a_budget_cuts_the_search_short() -> None:
    found = Checker(SHORT[1]).run(max_states=500)
    assert not found.complete
    assert found.violation is None
