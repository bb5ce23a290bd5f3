"""What a Terraform plan would do beyond publishing our pins: pure, on `terraform show -json`.

A plan is applied only when nothing speaks against it: it makes the ConfigMap of the pins hold our
very text, never an older one than stands, and touches nothing else. The format is Terraform's
"plan representation", whose major version is 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modelswitch.errors import PinsError, PinsTooNew
from modelswitch.fleet.condition import PINS_KEY
from modelswitch.pins import Pins, parse

DEFAULTS_ANNOTATION = "modelswitch.dev/defaults-sha256"  # on pod templates, under `restart`

_CONFIG_MAPS = ("kubernetes_config_map_v1", "kubernetes_config_map")
_WORDS = {
    ("create",): "creates",
    ("update",): "changes",
    ("delete",): "deletes",
    ("delete", "create"): "replaces",
    ("create", "delete"): "replaces",
    ("forget",): "forgets",
}


@dataclass(frozen=True, slots=True)
class _Change:
    """One resource of the plan; `before` and `after` are its attributes, empty where it is not."""

    address: str
    type: str
    actions: tuple[str, ...]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    unknown: Mapping[str, Any]

    @property
    def verb(self) -> str:
        return _WORDS.get(self.actions, "/".join(self.actions))


def objections(
    plan: Mapping[str, Any],
    *,
    text: str,
    namespace: str,
    config_map: str,
    standing: Pins | None,
    anything: bool = False,
) -> list[str]:
    """Why `plan` must not be applied, one sentence each; empty when nothing speaks against it.

    `text` is what should stand in `config_map` of `namespace` afterwards, `standing` what the
    cluster holds now, None where nothing readable does. `anything` allows changes beside the
    pins, but neither other text than ours nor an older generation than stands.
    """
    if not str(plan.get("format_version", "")).startswith("1."):
        return [f"its format is {plan.get('format_version')!r}, and only 1.x is known here"]
    if plan.get("errored"):
        return ["planning it failed half-way"]
    changes = [_change(e) for e in plan.get("resource_changes", []) if e["mode"] == "managed"]
    named = f"ConfigMap {namespace}/{config_map}"
    ours = [c for c in changes if _is_config_map(c, namespace, config_map)]
    found = list(_about_text(ours, text, namespace, config_map))
    found += _about_age(ours, parse(text), standing)
    if not anything:
        for change in changes:
            found += _beside(change, named, is_pins=change in ours)
        found += _not_resources(plan)
    return list(dict.fromkeys(found))


def _change(entry: Mapping[str, Any]) -> _Change:
    change = entry["change"]
    return _Change(
        address=entry["address"],
        type=entry.get("type", ""),
        actions=tuple(change["actions"]),
        before=change.get("before") or {},
        after=change.get("after") or {},
        unknown=change.get("after_unknown") or {},
    )


def _is_config_map(change: _Change, namespace: str, name: str) -> bool:
    return change.type in _CONFIG_MAPS and any(
        _is_named(state, namespace, name) for state in (change.before, change.after)
    )


def _is_named(state: Mapping[str, Any], namespace: str, name: str) -> bool:
    metadata = (state.get("metadata") or [{}])[0]
    return (metadata.get("namespace"), metadata.get("name")) == (namespace, name)


def _about_text(ours: list[_Change], text: str, namespace: str, name: str) -> Iterator[str]:
    named = f"ConfigMap {namespace}/{name}"
    if not ours:
        yield f"no {named} is among its resources: it belongs to other pins, or to none"
    for change in ours:
        held = (change.after.get("data") or {}).get(PINS_KEY)
        if not _is_named(change.after, namespace, name):
            yield f"it {change.verb} {change.address}, the {named}"
        elif held is None:
            yield f"it does not say what {PINS_KEY} of {change.address} will hold"
        elif held != text:
            yield f"{change.address} would hold other pins than those that are to be published"


def _about_age(ours: list[_Change], new: Pins, standing: Pins | None) -> Iterator[str]:
    stands = [standing] if standing else []
    stands += [p for c in ours if (p := _held_before(c)) is not None]
    newest = max((p.generation for p in stands), default=-1)
    if newest > new.generation:
        yield f"generation {newest} stands, and it would go back to {new.generation}"


def _held_before(change: _Change) -> Pins | None:
    """What Terraform found in the ConfigMap; None for what cannot be read and may be replaced."""
    try:
        return parse((change.before.get("data") or {})[PINS_KEY])
    except PinsTooNew:
        raise
    except (KeyError, TypeError, PinsError):
        return None


def _beside(change: _Change, named: str, *, is_pins: bool) -> Iterator[str]:
    """What one resource's change touches that is not the pins."""
    if change.actions == ("no-op",):
        return
    what = f"{change.address}, the {named}" if is_pins else change.address
    if change.actions != ("update",):
        yield f"it {change.verb} {what}"
        return
    places = set(_differences(change.before, change.after)) | set(_true(change.unknown))
    allowed: set[Place] = set()
    if is_pins:
        allowed = {("data", PINS_KEY)}
    elif change.type == "kubernetes_annotations":
        allowed = {("template_annotations", DEFAULTS_ANNOTATION)}
    if not allowed or places - allowed:
        names = ", ".join(sorted(".".join(map(str, place)) for place in places - allowed))
        yield f"it changes {names or 'something'} of {what}"


def _not_resources(plan: Mapping[str, Any]) -> Iterator[str]:
    for deferred in plan.get("deferred_changes") or ():
        address = deferred.get("resource_change", {}).get("address", "a resource")
        yield f"it leaves {address} for a later plan"
    for action in plan.get("action_invocations") or ():
        yield f"it invokes the action {action.get('address', '')}".rstrip()


Place = tuple[str | int, ...]


def _differences(before: Any, after: Any, at: Place = ()) -> Iterator[Place]:
    """The places at which two JSON values differ, as deep as both have the same shape."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys():
            yield from _differences(before.get(key), after.get(key), (*at, key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _differences(old, new, (*at, index))
    elif before != after:
        yield at


def _true(unknown: Any, at: Place = ()) -> Iterator[Place]:
    """The places that `after_unknown` marks."""
    if isinstance(unknown, dict):
        for key, value in unknown.items():
            yield from _true(value, (*at, key))
    elif isinstance(unknown, list):
        for index, value in enumerate(unknown):
            yield from _true(value, (*at, index))
    elif unknown is True:
        yield at
