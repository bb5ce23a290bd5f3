"""Files that are handed to a verb: JSON or TOML, checked before anything is done with them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from modelswitch.errors import UsageError

if TYPE_CHECKING:
    from modelswitch.archive.serving import Serving


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

    return parse_serving(_text(_read(path), _name(path)), source=_name(path))


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe of a serving.toml, or as one JSON object; raises UsageError as those do."""
    from modelswitch.archive.serving import check_recipe, parse_serving

    body, name = _read(path), _name(path)
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


def _read(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise UsageError(f"{_name(path)} cannot be read: {error.strerror or error}") from error


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
    except (UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{name} is not JSON: {error}") from error
