"""The rules of the protocol, each a switch. Dropping any one of them breaks a promise."""

from __future__ import annotations

RULES = {
    "cas": "a row is appended only where its parent is still the head",
    "write_before_effect": "the row is written before the pins that follow from it",
    "publish_never_lowers": "published pins never go back to a lower generation",
    "publish_head_first": "every verb first publishes what the head says, whoever wrote it",
    "generation_only_grows": "pins that return get a new generation, never their old one",
    "both_lines_pinned_while_open": "an open row pins the slots of its line and of its target",
    "undo_parent_is_own_row": "an undo stands on its own open row, never on a later one",
    "moves_start_settled": "a verb concludes what is open, again and again, before its own row",
    "every_server_proves": "a silent server is not a proven one",
    "proof_of_own_generation": "a proof counts from the open row's generation on",
    "rollback_carries_leaves": "a rollback leaves only what its user was shown",
    "leaves_names_the_slot": "a rollback compares the archive it leaves, not its version alone",
    "quarantine_in_refill": "ways back are refilled without what is quarantined",
    "quarantine_at_promote": "what is quarantined is not promoted before a lift",
    "retired_not_in_refill": "ways back are refilled without what is retired",
    "history_from_settled_only": "ways back come from settled lines only",
    "agent_refuses_lower_generation": "an agent refuses pins of a lower generation",
    "activate_only_proven": "an agent activates only what is loaded and proven there",
    "unload_never_default": "an agent never unloads what is default",
    "no_choice_of_its_own": "an agent whose default cannot load serves no way back instead",
    "plan_renders_its_line": "a plan changes no pins until its pull request is applied",
    "plan_waits": "a plan that waits is ended by nobody but who gives it up, or by a rollback",
    "overtaken_plan_ends": "a plan that newer pins have overtaken ends at its line",
    "taken_back_plan_ends": "a plan that older pins were put over ends at its line",
    "plan_ends_above_its_number": "the row that ends a plan outranks its pull request",
    "merge_recorded": "who publishes and finds a plan applied writes that down",
    "merge_before_row": "that a plan was applied is written before any other row",
    "late_record_renumbered": "a merge keeps its plan's number only straight behind the plan",
    "merge_never_lowers": "a pipeline applies no plan over newer pins",
}
ALL_RULES = frozenset(RULES)

PROMISES = {
    "committed": "never a default that was not committed",
    "one_story": "one story after a resume",
    "finished": "when every command has finished, what is not a plan is settled and published",
    "quarantine": "a quarantined version never serves again by itself",
    "retired": "a retired version never comes back by itself",
    "no_row_lost": "no row lost: every row stands on the one before it",
    "no_stray_undo": "what is settled changes only by a move of its own or a rollback",
    "shown": "a rollback leaves what its user was shown",
    "proven_everywhere": "what is settled as promoted was proven by every server under its row",
    "served_before": "a way back has served, proven, before",
    "default_kept": "nothing unloaded that is default",
    "default_serves": "no pointer moves to what is not loaded and proven",
    "one_text": "one generation, one text",
    "reviewed": "a plan serves nothing before its pull request is applied",
    "merge_kept": "what a pull request brought is taken back only by who knows of it",
    "one_pointer": "while a move is open, going either way is one pointer: nothing is unloaded",
}


class Violation(Exception):
    """A promise is broken; `promise` is a key of PROMISES."""

    def __init__(self, promise: str) -> None:
        super().__init__(PROMISES[promise])
        self.promise = promise
