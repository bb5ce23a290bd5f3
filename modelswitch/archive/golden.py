"""The golden request: one question whose right answer travels with the archive.

`compare` is what an agent decides by before it lets a version serve; it is pure Python, so that
an agent needs no numpy.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RTOL = 1e-4
ATOL = 1e-5

Kind = Literal["exact", "close", "topk", "schema"]


class Golden(BaseModel):
    """`request` and `expected` are whole JSON bodies; for `schema`, `expected` is an outline.

    A float is right when |got - expected| <= atol + rtol * |expected|. Integers, strings and
    booleans are right when equal, whatever the kind. `k` is for `topk` alone, which asks nothing
    else of a row of more than k numbers; of k or fewer each is compared too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Kind
    request: Any
    expected: Any
    rtol: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = RTOL
    # As large as the answers are: of prices near 300,000 a ten-thousandth is 30.
    atol: Annotated[float, Field(ge=0, allow_inf_nan=False)] = ATOL
    k: Annotated[int, Field(ge=1)] | None = None


def compare(golden: Golden, answer: Any) -> str | None:
    """None when the answer is right, else why not: `got 7, expected 3 at predictions[0]`."""
    if golden.kind == "schema":
        return _differ(golden.expected, outline(answer), "", golden)
    return _differ(golden.expected, answer, "", golden)


def kind_of(first: Any, second: Any, *, topk: int | None = None) -> Kind:
    """The kind that two answers to the same question allow."""
    kind: Kind = "topk" if topk else "close" if _has_float(first) else "exact"
    trial = Golden(kind=kind, request=None, expected=first, k=topk)
    return "schema" if compare(trial, second) else kind


def outline(answer: Any) -> Any:
    """Keys, types and shapes of an answer without its values."""
    if isinstance(answer, dict):
        return {"keys": {key: outline(value) for key, value in answer.items()}}
    if isinstance(answer, list):
        parts = [outline(item) for item in answer]
        if parts and all(part == parts[0] for part in parts):
            inner = parts[0]
            if "dtype" in inner:
                return {"dtype": inner["dtype"], "shape": [len(parts), *inner["shape"]]}
            return {"items": inner, "length": len(parts)}
        return {"parts": parts}
    return {"dtype": _type(answer), "shape": []}


def _differ(expected: Any, got: Any, at: str, golden: Golden) -> str | None:
    """The first difference, depth first; `at` is the path that leads here."""
    if isinstance(expected, dict):
        if not isinstance(got, dict):
            return f"got {_short(got)}, expected an object{_where(at)}"
        for key in expected:
            if key not in got:
                return f"got no {key!r}{_where(at)}"
        for key in got:
            if key not in expected:
                return f"got {key!r}, which is not expected{_where(at)}"
        pairs = ((f"{at}.{key}" if at else key, expected[key], got[key]) for key in expected)
    elif isinstance(expected, list):
        if not isinstance(got, list):
            return f"got {_short(got)}, expected a list{_where(at)}"
        if len(expected) != len(got):
            return f"got {len(got)} items, expected {len(expected)}{_where(at)}"
        best, found = (
            _best(v, golden.k) if golden.kind == "topk" else None for v in (expected, got)
        )
        if best is not None and found is not None:
            if best != found:
                return f"got {found}, expected {best} as best{_where(at)}"
            if len(expected) > len(best) or isinstance(expected[0], dict):
                return None
            # The order of all says nothing of what they are, and that of one nothing at all
        pairs = ((f"{at}[{i}]", e, g) for i, (e, g) in enumerate(zip(expected, got, strict=True)))
    else:
        right = _equal(expected, got, golden)
        return None if right else f"got {_short(got)}, expected {_short(expected)}{_where(at)}"
    return next((why for path, e, g in pairs if (why := _differ(e, g, path, golden))), None)


def _equal(expected: Any, got: Any, golden: Golden) -> bool:
    if isinstance(expected, float) and _is_number(got):
        if not math.isfinite(got):
            return False
        return bool(abs(got - expected) <= golden.atol + golden.rtol * abs(expected))
    return type(expected) is type(got) and bool(expected == got)


def _best(values: list[Any], k: int | None) -> list[Any] | None:
    """Places of the k largest numbers, best first, of equal ones the earlier; the first k labels
    of an image's answer, which stand in that order; None for anything else."""
    if not values or not k:
        return None
    if all(isinstance(v, float) and not math.isnan(v) for v in values):
        return sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    if all(isinstance(v, dict) and v.keys() == {"label", "score"} for v in values):
        return [v["label"] for v in values][:k]
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _has_float(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_float(item) for item in value.values())
    if isinstance(value, list):
        return any(_has_float(item) for item in value)
    return isinstance(value, float)


def _type(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "float", str: "string", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _where(at: str) -> str:
    return f" at {at}" if at else ""


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
