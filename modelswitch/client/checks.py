"""What a caller said besides the inputs, looked at before anything is sent. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Real

from modelswitch.errors import UsageError

_DAY_S = 86_400.0
# As HTTP has them: a line break in a value would begin another header
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"([!-~]([\t -~]*[!-~])?)?")


def seconds(timeout_s: float) -> float:
    is_number = isinstance(timeout_s, Real) and not isinstance(timeout_s, bool)
    if not is_number or not 0 < timeout_s <= _DAY_S:
        raise UsageError(f"timeout_s={timeout_s!r}: a positive number of seconds, up to a day")
    return float(timeout_s)


def count(retries: int) -> int:
    if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
        raise UsageError(f"retries={retries!r}: a whole number, 0 for none")
    return retries


def is_printable(text: object) -> bool:
    return isinstance(text, str) and text.isprintable()  # lone surrogates are not


def is_name(text: object) -> bool:
    # Of a path, . and .. would be taken out on the way
    return is_printable(text) and str(text).strip() not in ("", ".", "..")


def sendable(headers: Mapping[str, str]) -> dict[str, str]:
    """Raises UsageError naming the header, without its value: it may be a secret."""
    if not isinstance(headers, Mapping):
        raise UsageError("headers are a mapping of names to texts")
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER.fullmatch(name):
            raise UsageError(f"{name!r} is no name of a header")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise UsageError(
                f"the header {name} cannot be sent: its value is no text of printable ASCII",
                next="no line breaks, and no blanks at its ends",
            )
    return dict(headers)
