"""What a converter could not do, said with the operator's name."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from modelswitch.errors import ArchiveError

if TYPE_CHECKING:
    from modelswitch.archive.engines import Work

# How torch and ONNX name an operator in what they raise.
_OPERATORS = (
    re.compile(r"OpOverload\(op='([\w.:]+)'"),
    re.compile(r"\b(aten[.:]{1,2}\w+)"),
    re.compile(r"call_function\[target=([\w.]+)\]"),
    re.compile(r"Unsupported operator[: ]+'?([\w.:]+)"),
)


@contextmanager
def as_not_converted(work: Work, converter: str) -> Iterator[None]:
    """Whatever is raised inside, as an ArchiveError; converters' talk is not heard."""
    torch_talk = logging.getLogger("torch")
    level = torch_talk.level
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch_talk.setLevel(logging.CRITICAL)
            yield
    except ArchiveError:
        raise
    except ImportError as error:
        raise ArchiveError(
            f"{work.name}: the engine {work.recipe.engine} needs what is not installed here: "
            f"{error}",
            next='pip install "modelswitch[local]"',
        ) from error
    except Exception as error:  # a converter may raise anything
        operator = operator_in(error)
        what = f"cannot convert its operator {operator}" if operator else "cannot convert it"
        raise ArchiveError(
            f"{work.name}: the engine {work.recipe.engine} {what} ({converter}: {_short(error)})",
            next='it stays as it is: engine = "eager" serves it; modelswitch engines tries others',
        ) from error
    finally:
        torch_talk.setLevel(level)


def operator_in(error: BaseException | None) -> str | None:
    """The operator that an error, or what caused it, names."""
    while error is not None:
        for pattern in _OPERATORS:
            if found := pattern.search(str(error)):
                return found.group(1)
        error = error.__cause__ or error.__context__
    return None


def _short(error: BaseException) -> str:
    """The first line that says something, of the error that began it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
