"""MLflow's four forms of a request, brought to one: columns by name, or rows.

`inputs`, `instances`, `dataframe_split`, `dataframe_records`. What the cells must be is not
looked at here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from modelswitch.handlers.modelswitch_protocol import Invalid
else:
    from modelswitch_protocol import Invalid

FORMS = ("inputs", "instances", "dataframe_split", "dataframe_records")
_UNEVEN = "the rows or columns have different lengths"


def parsed(body: dict[str, Any], widest: int | None = None) -> tuple[str, Any, dict[str, Any]]:
    """The form, what came in it (rows of objects turned into columns), and the params.

    `widest`: how many columns without names can be of use; more are refused before any is made.
    """
    found = [key for key in body if key in FORMS]
    if len(found) != 1:
        raise Invalid(
            400, f"the body must hold one of {', '.join(FORMS)}; found {sorted(body)[:10]}"
        )
    form, value, params = found[0], body[found[0]], body.get("params") or {}
    if other := sorted(set(body) - {form, "params"}):
        raise Invalid(400, f"beside {form!r} the body holds {other[:10]}")
    if not isinstance(params, dict):
        raise Invalid(422, f"params is not an object but {type(params).__name__}")
    if form == "dataframe_split":
        value = _from_split(value, widest)
    elif form == "dataframe_records":
        if not _is_rows(value):
            raise Invalid(422, "dataframe_records is not a list of objects, one for each row")
        value = _from_rows(value)
    elif form == "instances" and _is_rows(value):
        value = _from_rows(value)
    return form, value, params


def _from_split(value: Any, widest: int | None) -> dict[str, list[Any]]:
    """Columns by name, or by number when no names are given."""
    if not isinstance(value, dict) or "data" not in value:
        raise Invalid(422, "dataframe_split is not an object with data and columns")
    if other := sorted(value.keys() - {"data", "columns", "index"}):
        raise Invalid(422, f"dataframe_split holds {other[:10]} beside data, columns and index")
    rows, names = value["data"], value.get("columns")
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise Invalid(422, "dataframe_split's data is not a list of rows")
    if names is None:
        width = len(rows[0]) if rows else 0
        if widest is not None and width > widest:
            raise Invalid(422, f"found {width} columns; expected {widest}")
        names = list(range(width))
    if not isinstance(names, list) or any(len(row) != len(names) for row in rows):
        raise Invalid(422, "dataframe_split's rows are not as long as its columns")
    if len({str(name) for name in names}) < len(names):
        raise Invalid(422, "two of dataframe_split's columns have the same name")
    return {str(name): [row[i] for row in rows] for i, name in enumerate(names)}


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _from_rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    if any(row.keys() != rows[0].keys() for row in rows):
        raise Invalid(422, "the rows do not all have the same names")
    return {name: [row[name] for row in rows] for name in rows[0]}


def transposed(rows: list[Any]) -> list[Any]:
    if len({len(row) for row in rows}) > 1:
        raise Invalid(422, _UNEVEN)
    return [list(column) for column in zip(*rows, strict=True)]


class Column(Protocol):
    """What `chosen` needs of one: `text` says what it takes."""

    @property
    def name(self) -> str | None: ...
    @property
    def text(self) -> str: ...


def chosen(specs: Sequence[Column], value: Any) -> list[list[Any]]:
    """The cells of each column: by name from an object of columns, else by place from rows."""
    names = [spec.name for spec in specs]
    if isinstance(value, dict):
        if names[0] is not None:
            refuse_missing(specs, value)
            found = [value[name] for name in names]
        else:
            found = list(value.values())
        _refuse_other(specs, len(found))
        return [cells if isinstance(cells, list) else [cells] for cells in found]
    rows = value if isinstance(value, list) else [value]
    # Lengths first: made into columns, millions of cells that no model takes cost a gigabyte.
    lengths = (len(row) if isinstance(row, list) else 1 for row in rows)
    _refuse_other(specs, next(lengths, 0))
    if any(length != len(specs) for length in lengths):
        raise Invalid(422, _UNEVEN)
    if len(specs) == 1:
        return [[row[0] if isinstance(row, list) else row for row in rows]]
    return [list(column) for column in zip(*rows, strict=True)]


def _refuse_other(specs: Sequence[Column], count: int) -> None:
    if count != len(specs):
        raise Invalid(422, f"found {count} columns; expected {len(specs)}: {names_of(specs)}")


_TOLD = 10  # of many names


def refuse_missing(specs: Sequence[Column], value: dict[str, Any]) -> None:
    """Raise Invalid unless every column has a name in `value`; further ones are ignored."""
    if missing := [spec.name for spec in specs if spec.name not in value]:
        # Most often one of these is the missing one, misspelt.
        unknown = sorted(str(name) for name in value.keys() - {spec.name for spec in specs})
        found = f"; not known: {_some(unknown)}" if unknown else ""
        raise Invalid(422, f"missing {_some(missing)}{found}; expected {names_of(specs)}")


def names_of(specs: Sequence[Column]) -> str:
    return _some([f"{spec.name or 'column'} ({spec.text})" for spec in specs])


def _some(names: Sequence[Any]) -> str:
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(map(str, names[:_TOLD])) + more
