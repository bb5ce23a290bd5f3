"""The worlds that are explored: who is at work, on what line, and what may fail."""

from __future__ import annotations

from modelswitch.line import Line, Slot

from .book import ONE, THREE, TWO, TWO_B, N
from .checker import World
from .commands import Verb

BIT_ONE, BIT_TWO, BIT_THREE = 1, 2, 4

RESUME, ROLLBACK = Verb("resume"), Verb("rollback")
SECOND = (Line((ONE,)), Line((TWO, ONE)))
THIRD = (*SECOND, Line((THREE, TWO)))
FOUR = (*THIRD, Line((TWO_B, THREE)))
STAGED = (*SECOND, Line((TWO, ONE), (THREE,)))
TWO_RECIPES = (*SECOND, Line((TWO_B, TWO)))
RECIPES = (Line((TWO,)), Line((ONE, TWO)), Line((TWO_B, ONE)))


MERGE, STALE, GIVE_UP = Verb("merge"), Verb("stale merge"), Verb("give up")


def promote(slot: Slot) -> Verb:
    return Verb("promote", slot)


def plan(slot: Slot) -> Verb:
    return Verb("plan", slot)


def stage_by_plan(slot: Slot) -> Verb:
    return Verb("plan to stage", slot)


def of_n(verb: Verb) -> Verb:
    return verb._replace(model=N)


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
    World("a scaling, a rollback, a resume", SECOND, (Verb("scale", TWO), ROLLBACK, RESUME)),
    World("a scaling and a promotion", STAGED, (Verb("scale", THREE), promote(THREE), RESUME)),
    World("a retirement, a rollback, a resume", THIRD, (Verb("retire", TWO), ROLLBACK, RESUME)),
    World("a retirement and a promotion", STAGED, (Verb("retire", ONE), promote(THREE))),
    World("a retirement, then two rollbacks", FOUR, (Verb("retire", ONE), ROLLBACK, ROLLBACK)),
    World("another recipe, then back", SECOND, (promote(TWO_B), ROLLBACK, RESUME)),
    World("two rollbacks from another recipe", TWO_RECIPES, (ROLLBACK, ROLLBACK, RESUME)),
    World("two recipes with another version between", RECIPES, (ROLLBACK, ROLLBACK, RESUME)),
    World("the whole model retired", SECOND, (Verb("retire"), promote(THREE), ROLLBACK)),
    World("one promotion twice", STAGED, (promote(THREE), promote(THREE), RESUME)),
    World("back, lifted, forward again", SECOND, (ROLLBACK, Verb("lift", TWO), promote(TWO))),
    World("a plan, its merge and a resume", STAGED, (plan(THREE), MERGE, RESUME), restarts=1),
    World("a plan, a merge, a rollback", STAGED, (plan(THREE), MERGE, ROLLBACK, RESUME)),
    World("a plan to stage", SECOND, (stage_by_plan(THREE), MERGE, RESUME), (0, BIT_THREE)),
    World("the first plan ever", (), (stage_by_plan(ONE), MERGE, plan(ONE), MERGE, RESUME)),
    World("a plan for what stops loading", STAGED, (plan(THREE), MERGE, RESUME), (0, BIT_THREE), 1),
    World("two plans", STAGED, (plan(THREE), plan(ONE), MERGE, RESUME)),
    World("a plan and a promotion", STAGED, (plan(THREE), promote(THREE), MERGE, RESUME)),
    World("a plan given up", STAGED, (plan(THREE), MERGE, GIVE_UP)),
    World("a plan given up and a rollback", STAGED, (plan(THREE), MERGE, GIVE_UP, ROLLBACK)),
    World("a plan applied and taken back", STAGED, (plan(THREE), MERGE, STALE, RESUME)),
    World("a rollback, then a stale merge", STAGED, (plan(THREE), STALE, ROLLBACK, RESUME)),
    World(
        "a plan and another model's rollback",
        STAGED,
        (plan(THREE), MERGE, of_n(ROLLBACK), RESUME),
        beside=SECOND,
    ),
    World(
        "the first plan and another model's rollback",
        (),
        (stage_by_plan(ONE), MERGE, of_n(ROLLBACK), RESUME),
        beside=SECOND,
    ),
    World(
        "plans of two models",
        STAGED,
        (plan(THREE), of_n(plan(THREE)), MERGE, MERGE, RESUME),
        beside=STAGED,
    ),
)

# Those that end come first: what they leave of the time goes to the last ones, which do not.
LONG = (
    World("three servers", STAGED, (promote(THREE), ROLLBACK, RESUME), (0, 0, BIT_THREE)),
    World(
        "three rollbacks over two ways back",
        FOUR,
        (ROLLBACK, ROLLBACK, ROLLBACK, RESUME),
        restarts=1,
        ways_back=2,
    ),
    World(
        "a promotion, a rollback, a resume and restarts",
        SECOND,
        (promote(THREE), ROLLBACK, RESUME),
        restarts=2,
    ),
    World(
        "a staging, a retirement, a rollback and a resume",
        THIRD,
        (Verb("stage", ONE), Verb("retire", TWO), ROLLBACK, RESUME),
        restarts=1,
    ),
    World("a plan, two rollbacks", STAGED, (plan(THREE), MERGE, ROLLBACK, ROLLBACK, RESUME)),
    World(
        "a plan and rollbacks of two models",
        STAGED,
        (plan(THREE), MERGE, ROLLBACK, of_n(ROLLBACK), RESUME),
        beside=SECOND,
    ),
    World(
        "a plan on three servers",
        STAGED,
        (plan(THREE), MERGE, ROLLBACK, RESUME),
        bad=(0, 0, BIT_THREE),
        restarts=1,
    ),
    World("a plan and a note", STAGED, (plan(THREE), MERGE, Verb("lift", ONE), RESUME), restarts=1),
    World(
        "a plan, a stale merge, a rollback, a resume and a restart",
        STAGED,
        (plan(THREE), STALE, ROLLBACK, RESUME),
        restarts=1,
    ),
    World(
        "a plan and whatever can end it",
        STAGED,
        (plan(THREE), STALE, MERGE, GIVE_UP, ROLLBACK, RESUME),
    ),
    World(
        "a promotion that one server can't follow, a rollback, a resume and restarts",
        STAGED,
        (promote(THREE), ROLLBACK, RESUME),
        bad=(0, BIT_THREE),
        restarts=2,
        spoils=BIT_ONE,
    ),
    World(
        "two promotions, a rollback and a resume",
        STAGED,
        (promote(THREE), promote(ONE), ROLLBACK, RESUME),
    ),
    World(
        "plans of two models and their rollbacks",
        STAGED,
        (plan(THREE), of_n(plan(THREE)), MERGE, MERGE, ROLLBACK, of_n(ROLLBACK), RESUME),
        beside=STAGED,
    ),
)

# For each rule the world that shows best what it is for, and the promise that breaks there.
TELLING = {
    "cas": ("two promotions and a resume", "no_row_lost"),
    "write_before_effect": ("a promotion and a resume", "committed"),
    "publish_never_lowers": ("a promotion, a rollback, a resume", "quarantine"),
    "publish_head_first": ("a promotion and a resume", "one_story"),
    "generation_only_grows": ("a promotion and a resume", "one_story"),
    "both_lines_pinned_while_open": ("a promotion and a resume", "one_pointer"),
    "undo_parent_is_own_row": ("one promotion twice", "no_stray_undo"),
    "moves_start_settled": ("a retirement and a promotion", "no_stray_undo"),
    "every_server_proves": ("what one server can't load", "proven_everywhere"),
    "proof_of_own_generation": ("one promotion twice", "proven_everywhere"),
    "rollback_carries_leaves": ("two rollbacks and a resume", "shown"),
    "leaves_names_the_slot": ("two rollbacks from another recipe", "shown"),
    "quarantine_in_refill": ("two rollbacks and a resume", "quarantine"),
    "quarantine_at_promote": ("back, lifted, forward again", "quarantine"),
    "retired_not_in_refill": ("a retirement, then two rollbacks", "retired"),
    "history_from_settled_only": ("a promotion, a rollback, a resume", "served_before"),
    "agent_refuses_lower_generation": ("two rollbacks and a resume", "quarantine"),
    "activate_only_proven": ("a rollback to what can't load", "default_serves"),
    "unload_never_default": ("a rollback to what can't load", "default_kept"),
    "no_choice_of_its_own": ("a rollback to what can't load", "committed"),
    "plan_renders_its_line": ("a plan, its merge and a resume", "reviewed"),
    "plan_waits": ("a plan and a promotion", "no_stray_undo"),
    "overtaken_plan_ends": ("a plan and another model's rollback", "one_story"),
    "taken_back_plan_ends": ("a plan applied and taken back", "one_story"),
    "plan_ends_above_its_number": ("a plan given up", "one_story"),
    "merge_recorded": ("a plan, its merge and a resume", "one_story"),
    "merge_before_row": ("a plan and another model's rollback", "merge_kept"),
    "late_record_renumbered": ("a plan and another model's rollback", "one_text"),
    "merge_never_lowers": ("a plan, a merge, a rollback", "finished"),
}


def telling(rule: str) -> tuple[World, str]:
    name, promise = TELLING[rule]
    return next(world for world in SHORT if world.name == name), promise
