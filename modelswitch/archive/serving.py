"""`serving.toml`: how a version is served, and what is said about it, as people write it.

`[recipe]` (with `[recipe.image]`) is hashed into the archive, `[about]` is not. What is kept is
what was written: a default that changes in a later release is not frozen by having been left out.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import BaseModel, ByteSize, TypeAdapter, ValidationError

from modelswitch.archive.recipe import About, Recipe
from modelswitch.errors import UsageError

_TABLES = ("recipe", "about")
_BUILDS_OWN = {"handler_release"}  # a build names it: nobody else can know it
_SIZE = TypeAdapter(ByteSize)
_BYTES = "_bytes"  # ends the names of sizes; people write them without, and as text


@dataclass(frozen=True, slots=True)
class Serving:
    """Both tables as they were written, checked; empty where the file has none."""

    recipe: Mapping[str, Any]
    about: Mapping[str, Any]


def parse_serving(text: str, *, source: str) -> Serving:
    """Read a serving.toml; raises UsageError naming the key that is wrong, and what may stand."""
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of a number of too many digits, no TOML error
        what = str(error).partition(";")[0]
        raise UsageError(f"{source} is not TOML: {what}", next="correct the file") from error
    for name, table in data.items():
        if name not in _TABLES:
            _refuse_key(source, name, _TABLES, "tables of the file")
        if not isinstance(table, dict):
            raise UsageError(f"{source}: {name} is a table", next=f"[{name}] on a line of its own")
    about = _sized(About, data.get("about", {}), source, "about")
    _check(About, about, source, "about")
    return Serving(check_recipe(data.get("recipe", {}), source=source), about)


def check_recipe(recipe: Mapping[str, Any], *, source: str) -> Mapping[str, Any]:
    """The recipe with sizes in bytes, else as written; raises UsageError as `parse_serving`."""
    for name in _BUILDS_OWN & recipe.keys():
        _refuse_key(f"{source}: recipe", name, _keys(Recipe), "keys of [recipe]")
    recipe = _sized(Recipe, recipe, source, "recipe")
    _check(Recipe, recipe, source, "recipe")
    return recipe


def own_words(kept: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """What of a recipe or an about is not as it would be had nobody said anything."""
    defaults = {
        name: field.get_default(call_default_factory=False)
        for name, field in model.model_fields.items()
        if name not in _BUILDS_OWN
    }
    return {key: kept[key] for key in defaults if key in kept and kept[key] != defaults[key]}


def _sized(
    model: type[BaseModel], table: Mapping[str, Any], source: str, name: str
) -> dict[str, Any]:
    """With `memory_budget = "500MB"` as `memory_budget_bytes`."""
    found = dict(table)
    for key in (k for k in model.model_fields if k.endswith(_BYTES)):
        short = key.removesuffix(_BYTES)
        if short not in found:
            continue
        if key in found:
            raise UsageError(f"{source}: {name} has {short} and {key}", next="one of them")
        value = found.pop(short)
        try:
            found[key] = int(_SIZE.validate_python(value))
        except (ValidationError, OverflowError) as error:
            raise UsageError(
                f"{source}: {name}.{short}: {_shown(value)} is no size",
                next='"500MB", "1.5GiB", or bytes',
            ) from error
    return found


def _check(model: type[BaseModel], table: Mapping[str, Any], source: str, name: str) -> None:
    try:
        model.model_validate(dict(table))
    except ValidationError as error:
        first = error.errors()[0]
        *above, key = [str(part) for part in first["loc"]] or [name]
        where = ".".join([name, *above]) if first["loc"] else name
        if first["type"] == "extra_forbidden":
            inner = model.model_fields[above[0]].annotation if above else model
            keys = _keys(_model_in(inner) or model)
            _refuse_key(f"{source}: {where}", key, keys, f"keys of [{where}]")
        got = "" if not first["loc"] else f", got {_shown(first['input'])}"
        what = first["msg"].removeprefix("Value error, ")
        raise UsageError(
            f"{source}: {where}{'.' + key if first['loc'] else ''}: {what}{got}",
            next="docs/serving-toml.md lists every key",
        ) from error


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits; TOML's 0x… reads them
        return "a number of thousands of digits"
    return text if len(text) <= 200 else text[:197] + "..."


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The table that stands in an optional field."""
    options = getattr(annotation, "__args__", (annotation,))
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _keys(model: type[BaseModel]) -> list[str]:
    return [name.removesuffix(_BYTES) for name in model.model_fields if name not in _BUILDS_OWN]


def _refuse_key(where: str, key: str, allowed: Iterable[str], what: str) -> NoReturn:
    allowed = list(allowed)
    near = difflib.get_close_matches(key, allowed, n=1)
    meant = f"; is {near[0]} meant?" if near else ""
    raise UsageError(f"{where}: there is no {key}{meant}", next=f"{what}: {', '.join(allowed)}")
