"""From a request to the DataFrame that a signature of columns asks for, checked by ourselves.

MLflow's own enforcement takes milliseconds, turns 1.5 into 1 and null into False without a word,
and differs from form to form. What both let through is the same here, to the dtype.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from modelswitch.handlers.modelswitch_forms import chosen, names_of, parsed
    from modelswitch.handlers.modelswitch_protocol import Invalid, Request
    from modelswitch.handlers.modelswitch_tensors import COLUMN_TYPES, Signature, Spec, column
else:
    from modelswitch_forms import chosen, names_of, parsed
    from modelswitch_protocol import Invalid, Request
    from modelswitch_tensors import COLUMN_TYPES, Signature, Spec, column

_YEAR = re.compile(r"\s*[0-9]{4}")


@dataclass(frozen=True)
class Words:
    """A column of strings and nulls, or of ISO times without a zone."""

    name: str | None
    text: str  # "string" or "datetime", MLflow's names

    def read(self, cells: list[Any]) -> Any:
        for cell in cells:
            if cell is not None and not isinstance(cell, str):
                raise self._wrong(f"holds {type(cell).__name__}")
        if not _is_unicode(cells):
            raise self._wrong("holds half a surrogate pair, which is no character")
        if self.text == "string":
            return cells
        # pandas takes "now" for the current time, "" and "nan" for none.
        if any(cell is not None and not _YEAR.match(cell) for cell in cells):
            raise self._wrong("holds what is no ISO time")
        try:
            times = pd.to_datetime(pd.Series(cells, dtype="str"), format="ISO8601")
            if getattr(times.dt, "tz", None) is None:
                return times.dt.as_unit("ns")
        except pd.errors.OutOfBoundsDatetime as error:
            raise self._wrong("holds a time before 1677 or after 2262") from error
        except (ValueError, OverflowError) as error:
            raise self._wrong(f"holds what is no ISO time: {str(error)[:200]}") from error
        raise self._wrong("holds times with a zone: send them without, in the model's own")

    def _wrong(self, what: str) -> Invalid:
        name = f"the column {self.name!r}" if self.name else "a column"
        return Invalid(422, f"{name} {what}; expected {self.text}", expected=self.text)


@dataclass(frozen=True)
class Frame:
    """A signature's columns, those that may be left out among them."""

    columns: tuple[Spec | Words, ...]
    optional: frozenset[str]

    @classmethod
    def of(cls, inputs: list[dict[str, Any]]) -> Frame | None:
        """None for a signature of anything but plain columns."""
        columns: list[Spec | Words] = []
        for spec in inputs:
            if spec["type"] in COLUMN_TYPES:
                columns.append(column(spec, nullable=True))
            elif spec["type"] in ("string", "datetime"):
                columns.append(Words(spec.get("name"), spec["type"]))
            else:
                return None
        optional = {str(spec.get("name")) for spec in inputs if not spec.get("required", True)}
        return cls(tuple(columns), frozenset(optional))

    def read(self, request: Request) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The frame and the params; raises Invalid."""
        if request.is_binary:
            if not all(isinstance(column, Spec) for column in self.columns):
                kind = request.content_type
                raise Invalid(415, f"the model takes words among its columns: send JSON, no {kind}")
            return self._of_matrix(_matrix_of(self.columns).read(request)[0]), {}
        form, value, params = parsed(request.body, len(self.columns))
        columns = self.columns
        if isinstance(value, dict):
            columns = tuple(c for c in columns if c.name not in self.optional or c.name in value)
            if not columns:
                raise Invalid(422, f"found none of the columns {names_of(self.columns)}")
        if _is_matrix(columns):
            frame = self._of_matrix(_matrix_of(columns).table(value), columns)
        else:
            found = [
                spec.read(cells)
                for spec, cells in zip(columns, chosen(columns, value), strict=True)
            ]
            if len({len(cells) for cells in found}) > 1:
                raise Invalid(422, "the columns have different lengths")
            if not len(found[0]):
                raise Invalid(422, "there are no rows")
            frame = pd.DataFrame(dict(enumerate(found)))
            frame.columns = _names(columns)
        if form == "dataframe_split":
            _set_index(frame, request.body[form].get("index"))
        return frame, params

    def _of_matrix(
        self, matrix: Any, columns: tuple[Spec | Words, ...] | None = None
    ) -> pd.DataFrame:
        columns = columns or self.columns
        frame = pd.DataFrame(matrix, columns=_names(columns))
        if not _is_matrix(columns):  # what came as one array has as many dtypes as the signature
            names = zip(frame.columns, columns, strict=True)
            frame = frame.astype({name: c.dtype for name, c in names if isinstance(c, Spec)})
        return frame


def _matrix_of(columns: tuple[Spec | Words, ...]) -> Signature:
    specs = tuple(column for column in columns if isinstance(column, Spec))
    return Signature(specs, True, np.result_type(*(spec.dtype for spec in specs)))


def _is_matrix(columns: tuple[Spec | Words, ...]) -> bool:
    """Whether all are numbers of one dtype, which pandas keeps in one block."""
    return len({c.dtype if isinstance(c, Spec) else None for c in columns}) == 1 and isinstance(
        columns[0], Spec
    )


def _names(columns: tuple[Spec | Words, ...]) -> Any:
    named = [c.name for c in columns]
    return pd.RangeIndex(len(named)) if named[0] is None else named


def _set_index(frame: pd.DataFrame, index: Any) -> None:
    if index is None:
        return
    if not isinstance(index, list) or len(index) != len(frame):
        raise Invalid(422, "dataframe_split's index is not one label for each row")
    if any(isinstance(label, list | dict) for label in index):
        raise Invalid(422, "dataframe_split's index holds lists or objects")
    if not _is_unicode(index):
        raise Invalid(422, "dataframe_split's index holds half a surrogate pair")
    frame.index = pd.Index(index)


def _is_unicode(cells: list[Any]) -> bool:
    """Whether no string holds a lone surrogate: JSON can write one, pandas cannot keep it."""
    try:
        "".join(cell for cell in cells if isinstance(cell, str)).encode()
    except UnicodeEncodeError:
        return False
    return True
