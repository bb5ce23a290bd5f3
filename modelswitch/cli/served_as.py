"""Recipe and about in words: only what differs from the defaults. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelswitch.policy.sums import Ask, amount, cost
from modelswitch.registry import ABOUT_TAG, RECIPE_TAG

if TYPE_CHECKING:
    from modelswitch.archive.document import Document
    from modelswitch.archive.golden import Golden
    from modelswitch.line import Slot
    from modelswitch.registry import ModelVersion

_MANY = 20
TAGS = (ABOUT_TAG, RECIPE_TAG)  # told in words, so not once more as tags


def about_line(version: ModelVersion) -> str | None:
    """`about: task classification, latency SLA 50 ms, memory budget 500 MB`."""
    about = _tag(version.tags.get(ABOUT_TAG))
    words = {
        "task": "task {}",
        "latency_sla_ms": "latency SLA {} ms",
        "memory_budget_bytes": "memory budget {}",
        "card": "card {}",
    }
    told = [
        words.get(k, k + " {}").format(amount(v) if k == "memory_budget_bytes" else v)
        for k, v in about.items()
        if v is not None
    ]
    return f"about: {', '.join(told)}" if told else None


def recipe_line(version: ModelVersion) -> str | None:
    """What the next build goes by."""
    recipe = _tag(version.tags.get(RECIPE_TAG))
    return f"registered recipe: {_words(recipe)}" if recipe else None


def archive_line(document: Document | None, slot: Slot, memory_bytes: int | None) -> str:
    """What an archive was built with, and what a server pays for it."""
    from modelswitch.archive.recipe import Recipe
    from modelswitch.archive.serving import own_words

    ask = Ask("", slot.version, slot.digest, slot.workers, memory_bytes)
    told = [f"memory on each server: {cost([ask])}" if memory_bytes else cost([ask])]
    if document is not None:
        told.insert(0, f"golden request: {_proved_by(document.golden)}")
        recipe = own_words(document.recipe.model_dump(mode="json"), Recipe)
        told.insert(1, f"recipe: {_words(recipe) or 'as is'}")
        if document.runs_code:
            told.insert(2, "runs code that came with it when it is loaded")
    return "; ".join(told)


def _proved_by(golden: Golden | None) -> str:
    """The kind, and how far off an answer may be."""
    if golden is None:
        return "none"
    limits = {
        "close": f" (rtol {golden.rtol:.3g}, atol {golden.atol:.3g})",
        "topk": f" (the best {golden.k})",
    }
    return golden.kind + limits.get(golden.kind, "")


def documents(version: ModelVersion | None) -> dict[str, Any]:
    """Both tags as JSON, whole; null where none was registered."""
    tags = version.tags if version else {}
    return {
        "about": _tag(tags[ABOUT_TAG]) if ABOUT_TAG in tags else None,
        "registered_recipe": _tag(tags[RECIPE_TAG]) if RECIPE_TAG in tags else None,
    }


def changed(version: ModelVersion, serving: Path | None) -> list[str]:
    """What registering again has changed, and what that does not change by itself."""
    lines = []
    for tag, name in ((ABOUT_TAG, "about"), (RECIPE_TAG, "recipe")):
        if tag in version.former:
            before, after = _tag(version.former[tag]), _tag(version.tags[tag])
            lines.append(f"its {name} is now: {_change(before, after)}")
    if RECIPE_TAG in version.former:
        how = f"--recipe {serving}" if serving else "--allow-pickle"
        lines.append(
            "An archive that is loaded keeps the recipe it was built with. To serve this one: "
            f'modelswitch promote {version} {how} --reason "…"'
        )
    return lines


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    def told(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False) if value is not None else "as by default"

    keys = [k for k in {**before, **after} if before.get(k) != after.get(k)]
    told_of = [f"{k} {told(after.get(k))} (before: {told(before.get(k))})" for k in keys]
    return ", ".join(told_of) or "the same in other words"


def _words(recipe: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for key, value in (dict(recipe) | _shortened(recipe)).items()
    )


def _shortened(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """An image's table with a thousand labels told by their number; --json has them all."""
    image = recipe.get("image")
    labels = image.get("labels") if isinstance(image, dict) else None
    if not isinstance(image, dict) or not isinstance(labels, list) or len(labels) <= _MANY:
        return {}
    return {"image": image | {"labels": [*labels[:3], f"… of {len(labels)}"]}}


def _tag(text: str | None) -> dict[str, Any]:
    """What a tag says; somebody's own text, which is no JSON object, says nothing to us."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
