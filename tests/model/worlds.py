"""The worlds that are explored: who is at work, on what line, and what may fail."""

from __future__ import annotations

from modelswitch.line import Line, Slot

from .book import ONE, THREE, TWO, TWO_B
from .checker import World
from .commands import Verb

BIT_ONE, BIT_TWO, BIT_THREE = 1, 2, 4

RESUME, ROLLBACK = Verb("resume"), Verb("rollback")
FIRST = (Line((ONE,)),)
SECOND = (Line((ONE,)), Line((TWO, ONE)))
THIRD = (*SECOND, Line((THREE, TWO)))
FOUR = (*THIRD, Line((TWO_B, THREE)))
STAGED = (*SECOND, Line((TWO, ONE), (THREE,)))

RECIPES = (Line((TWO,)), Line((ONE, TWO)), Line((TWO_B, ONE)))


def promote(slot: Slot) -> Verb:
    return Verb("promote", slot)


SHORT = (
    World("the first promotion ever", (), (promote(ONE), RESUME), restarts=1),
    World("a promotion and a resume", SECOND, (promote(THREE), RESUME), restarts=2),
    World("what one server can't load", SECOND, (promote(THREE), RESUME), (0, BIT_THREE), 1),
    World("a promotion, a rollback, a resume", STAGED, (promote(THREE), ROLLBACK, RESUME)),
    World("two promotions and a resume", STAGED, (promote(THREE), promote(ONE), RESUME)),
    World("two rollbacks and a resume", THIRD, (ROLLBACK, ROLLBACK, RESUME), restarts=1),
    World("a rollback to what can't load", THIRD, (ROLLBACK, RESUME), (0, BIT_TWO), 1),
    World("a slot that stops loading", SECOND, (ROLLBACK, RESUME), restarts=1, spoils=BIT_ONE),
    World("a staging, a rollback, a resume", SECOND, (Verb("stage", THREE), ROLLBACK, RESUME)),
    World("a retirement, a rollback, a resume", THIRD, (Verb("retire", TWO), ROLLBACK, RESUME)),
    World("a retirement, then two rollbacks", FOUR, (Verb("retire", ONE), ROLLBACK, ROLLBACK)),
    World("another recipe, then back", SECOND, (promote(TWO_B), ROLLBACK, RESUME)),
    World("two recipes behind each other", RECIPES, (ROLLBACK, ROLLBACK)),
    World("back, lifted, forward again", SECOND, (ROLLBACK, Verb("lift", TWO), promote(TWO))),
)
