"""Plans that the check is asked about, and what it answers: recorded ones and real ones alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelswitch.line import Head, Kind, Line, Slot
from modelswitch.pins import Pins, render

RECORDED = Path(__file__).parent / "unit" / "plans"
NAMESPACE = "modelswitch"
CONFIG_MAP = "modelswitch-pins-production"
PINS = "module.serving.kubernetes_config_map_v1.pins"
ROLE = "module.serving.kubernetes_role_v1.agent"
BINDING = "module.serving.kubernetes_role_binding_v1.agent"

_THREE = Slot("3", "sha256:" + "ab" * 32)
_FOUR = Slot("4", "sha256:" + "cd" * 32)


def pins(generation: int, serving: Slot, *, staged: Slot | None = None) -> Pins:
    line = Line((serving,), (staged,) if staged else (), pool="classifier")
    heads = {"digits": Head(Kind.SETTLED, line)}
    return render(heads, deployment="production", generation=generation)


OLDER = pins(3, _THREE)
OLD = pins(4, _THREE, staged=_FOUR)
NEW = pins(5, _FOUR, staged=_THREE)


@dataclass(frozen=True, slots=True)
class Case:
    """One plan, the pins that are to be published by it, and what speaks against it.

    `always` stands even when the plan may touch anything.
    """

    name: str
    pins: Pins = NEW
    beside: tuple[str, ...] = ()
    always: tuple[str, ...] = ()


_NAMED = f"ConfigMap {NAMESPACE}/{CONFIG_MAP}"
CASES = (
    Case("pins_only"),
    Case("restart"),
    Case("no_op", pins=OLD),
    Case("outputs_only", pins=OLD),
    Case("edited_by_hand"),
    Case(
        "first",
        beside=(f"it creates {PINS}, the {_NAMED}", f"it creates {BINDING}", f"it creates {ROLE}"),
    ),
    Case("gone", beside=(f"it creates {PINS}, the {_NAMED}",)),
    Case("adds", beside=("it creates kubernetes_secret_v1.more",)),
    Case("replaces", beside=(f"it replaces {PINS}, the {_NAMED}",)),
    Case(
        "labels",
        beside=(
            f"it changes metadata.0.labels.team of {PINS}, the {_NAMED}",
            f"it changes metadata.0.labels.team of {BINDING}",
            f"it changes metadata.0.labels.team of {ROLE}",
        ),
    ),
    Case(
        "restarts_another",
        beside=(
            "it changes template_annotations.who of "
            'module.serving.kubernetes_annotations.defaults["classifier"]',
        ),
    ),
    Case(
        "deletes",
        always=(f"it deletes {PINS}, the {_NAMED}",),
        beside=(f"it deletes {BINDING}", f"it deletes {ROLE}"),
    ),
    Case(
        "moves_away",
        always=(f"it replaces {PINS}, the {_NAMED}",),
        beside=(f"it replaces {BINDING}", f"it replaces {ROLE}"),
    ),
    Case("older", pins=OLDER, always=("generation 4 stands, and it would go back to 3",)),
    Case(
        "other_text",
        pins=OLD,
        always=(f"{PINS} would hold other pins than those that are to be published",),
    ),
)
