"""How far an engine's answer may be from what the model answers as it was logged. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modelswitch.archive.golden import ATOL, RTOL
from modelswitch.archive.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Tolerance:
    """As Golden's: |got - expected| <= atol + rtol * |expected|, or the `k` best places alone."""

    rtol: float
    atol: float
    k: int | None = None


# Relative, and absolute as a share of the largest number in the answer. The graph engines add
# the same float32 numbers in another order; bfloat16 has 8 bits of them; int8 has 256 steps.
_BY_ENGINE = {
    "onnx": (1e-3, 1e-4),
    "compile": (1e-3, 1e-4),
    "bf16": (2e-2, 2e-2),
    "int8": (1e-1, 1e-1),
}
# Of a picture's labels these two are held to the best one, since their scores move.
_ROUGH = ("bf16", "int8")


def tolerance_of(recipe: Recipe, answer: Any) -> Tolerance:
    """For `recipe`'s engine, of a model that answers such as `answer`."""
    k = recipe.topk or (1 if recipe.input == "image" and recipe.engine in _ROUGH else None)
    if recipe.engine not in _BY_ENGINE:
        return Tolerance(RTOL, ATOL, k)
    rtol, share = _BY_ENGINE[recipe.engine]
    largest = max((abs(number) for number in _floats(answer)), default=0.0)
    return Tolerance(rtol, max(ATOL, share * largest), k)


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _floats(item)
    elif isinstance(value, float) and math.isfinite(value):
        yield value
