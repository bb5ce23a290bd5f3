"""Files that are handed to a verb: JSON or TOML, checked before anything is done with them."""

from __future__ import annotations

import codecs
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from modelswitch.errors import UsageError

if TYPE_CHECKING:
    from modelswitch.archive.serving import Serving


_SERVING_BYTES = 1_000_000  # of a serving.toml; with a thousand labels it has 30,000


def read_json(path: Path) -> bytes:
    """The bytes of a file, or of stdin for `-`, that hold one JSON value.

    Raises UsageError with the line and column where they do not.
    """
    body = _read(path)
    _parse(body, _name(path))
    return body


def read_inputs(path: Path) -> Any:
    """What a model is asked: the bytes of an image, an array or JSON; the path of a .csv.

    Raises UsageError as `read_json` does for what is none of these.
    """
    from modelswitch.client.bodies import is_binary

    if path.suffix.lower() == ".csv":
        return path
    body = _read(path)
    if not is_binary(body):
        _parse(body, _name(path))
    return body


def read_serving(path: Path) -> Serving:
    """A serving.toml; raises UsageError naming the key that is wrong."""
    from modelswitch.archive.serving import parse_serving

    body = _read(path, at_most=_SERVING_BYTES)
    return parse_serving(_text(body, _name(path)), source=_name(path))


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe of a serving.toml, or as one JSON object; raises UsageError as those do."""
    from modelswitch.archive.serving import check_recipe, parse_serving

    body, name = _read(path, at_most=_SERVING_BYTES), _name(path)
    if body.lstrip()[:1] != b"{":  # which no TOML begins with
        return dict(parse_serving(_text(body, name), source=name).recipe)
    found = _parse(body, name)
    return dict(check_recipe(found, source=name))


def _text(body: bytes, name: str) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not TOML: {error}") from error


def _name(path: Path) -> str:
    return "standard input" if str(path) == "-" else str(path)


def _read(path: Path, *, at_most: int | None = None) -> bytes:
    """Without the mark that some editors put before UTF-8."""
    name = _name(path)
    count = -1 if at_most is None else at_most + 1
    try:
        if str(path) == "-":
            body = sys.stdin.buffer.read(count)
        else:
            with path.open("rb") as file:
                body = file.read(count)
    except OSError as error:
        raise UsageError(
            f"{name} cannot be read: {error.strerror or error}",
            next="a file is named, or - for standard input",
        ) from error
    if at_most is not None and len(body) > at_most:
        raise UsageError(f"{name} is longer than the {at_most:,} bytes that are read")
    return body.removeprefix(codecs.BOM_UTF8)


def _parse(body: bytes, name: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise UsageError(f"{name} is not JSON: {constant} is no JSON number")

    try:
        return json.loads(body, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{name} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}",
            next="nothing was sent; correct the file",
        ) from error
    except (ValueError, RecursionError) as error:  # no UTF-8, too deep, a number too long
        what = str(error).partition(";")[0]
        raise UsageError(f"{name} is not JSON: {what}") from error
