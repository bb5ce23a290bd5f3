"""Files that are handed to a verb: JSON, checked before anything is done with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from modelswitch.errors import UsageError


def read_json(path: Path) -> bytes:
    """The bytes of a file, or of stdin for `-`, that hold one JSON value.

    Raises UsageError with the line and column where they do not.
    """
    name = "standard input" if str(path) == "-" else str(path)
    try:
        body = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror or error}") from error
    _parse(body, name)
    return body


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, such as a recipe; raises UsageError on anything else."""
    found = _parse(read_json(path), str(path))
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no JSON object", next='like {"batch_size": 8}')
    return found


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
