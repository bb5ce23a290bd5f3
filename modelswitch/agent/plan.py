"""Reconcile: what is missing between the pins of one model and what its server holds.

`diff` decides and is pure. Its steps are of two sorts: quick ones, which the agent carries out
at once and in order, and slow ones (`Load`, `Shrink`, `Unload`), which run beside and never hold
up the pointer. What was done stays done, and the next `diff` starts from there.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelswitch.pins import PinnedModel, PinnedSlot
from modelswitch.servers.protocol import ServedModel

PLACEHOLDER = "placeholder"
STANDIN = "-standin"  # ends the label of what answers while a slot's workers are ended


@dataclass(frozen=True, slots=True)
class Load:
    """Fetch, verify, register, wait until READY, and answer the golden request."""

    model: str
    label: str
    slot: PinnedSlot
    is_default: bool


@dataclass(frozen=True, slots=True)
class Scale:
    """Start more workers of a slot that is loaded."""

    model: str
    label: str
    workers: int


@dataclass(frozen=True, slots=True)
class Shrink:
    """End workers of a slot that is loaded, and lose no request."""

    model: str
    label: str
    slot: PinnedSlot
    is_default: bool


@dataclass(frozen=True, slots=True)
class Activate:
    """Make a proven slot, or the placeholder, what the model's name answers with."""

    model: str
    label: str


@dataclass(frozen=True, slots=True)
class Prove:
    """Ask the default path, and hold its digest against the pins."""

    model: str
    label: str
    digest: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Drain and unregister what no pin asks for any more."""

    model: str
    label: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop loading, or shrinking, what is no longer wanted so; unloading what is wanted again."""

    model: str
    label: str


Step = Load | Scale | Shrink | Activate | Prove | Unload | Cancel


@dataclass(frozen=True, slots=True)
class Known:
    """What the agent knows of one model beyond what the server tells."""

    proven: frozenset[str] = frozenset()
    resting: frozenset[str] = frozenset()  # failed, and not due for another try
    loading: frozenset[str] = frozenset()
    unloading: frozenset[str] = frozenset()
    shrinking: frozenset[Shrink] = frozenset()
    unshrinkable: frozenset[str] = frozenset()  # failed to, and not due for another try
    kept: frozenset[str] = frozenset()  # labels that a shrinking slot needs for now
    default_proven: str | None = None  # label whose default path answered right
    hold_candidates: bool = False  # some model's default is still to be loaded


def diff(model: str, wanted: PinnedModel, served: ServedModel | None, known: Known) -> list[Step]:
    """The steps that bring the server nearer to `wanted`, in the order to take them."""
    versions = served.versions if served else {}
    default = served.default if served else None
    stale = {label for label in known.loading if label not in wanted.slots}
    stale |= {label for label in known.unloading if label in wanted.slots}
    stale |= {s.label for s in known.shrinking if s != _shrink(model, s.label, wanted)}
    shrinking = {step.label for step in known.shrinking}
    steps: list[Step] = [Cancel(model, label) for label in sorted(stale)]
    ready = {
        label
        for label in wanted.slots
        if label in known.proven and label in versions and versions[label].ready > 0
    }

    # The pointer first: nothing below may delay it.
    if wanted.default in ready:
        if default != wanted.default:
            steps.append(Activate(model, wanted.default))
        if default != wanted.default or known.default_proven != wanted.default:
            slot = wanted.slots[wanted.default]
            steps.append(Prove(model, wanted.default, slot.digest))
    elif wanted.default is None and default not in (None, PLACEHOLDER):
        steps.append(Activate(model, PLACEHOLDER))

    for label in _in_order(wanted):
        slot = wanted.slots[label]
        is_default = label == wanted.default
        if label in known.loading or label in known.unloading:
            continue
        held = label in versions
        if label in known.proven and held:
            if versions[label].max_workers < slot.workers:
                steps.append(Scale(model, label, slot.workers))
            elif (
                versions[label].max_workers > slot.workers
                and label not in shrinking | known.unshrinkable
                # The pointer is on its way, or what stood in before is: first that.
                and (label == default) == is_default
                and label + STANDIN not in versions
            ):
                steps.append(Shrink(model, label, slot, is_default))
            continue
        if label in known.resting or (known.hold_candidates and not is_default):
            continue
        steps.append(Load(model, label, slot, is_default))

    for label in sorted(versions):
        if label in {*wanted.slots, *known.unloading, *known.loading, *known.kept}:
            continue
        # Never what is default, but for the last version of a model that is to go whole.
        if label == default and (wanted.slots or len(versions) > 1):
            continue
        # The placeholder keeps its place until a right default stands, or nothing else does.
        keeps = default != wanted.default if wanted.slots else len(versions) > 1
        if label == PLACEHOLDER and keeps:
            continue
        steps.append(Unload(model, label))
    return steps


def _shrink(model: str, label: str, wanted: PinnedModel) -> Shrink | None:
    """What shrinking the slot would mean by these pins."""
    slot = wanted.slots.get(label)
    return Shrink(model, label, slot, label == wanted.default) if slot else None


def _in_order(wanted: PinnedModel) -> list[str]:
    """The default, then the ways back, then the rest."""
    first = [wanted.default] if wanted.default else []
    named = [*first, *wanted.back]
    return named + [label for label in sorted(wanted.slots) if label not in named]
