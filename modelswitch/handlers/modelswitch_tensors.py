"""From a request's JSON to arrays that fit the model's signature, or to what does not fit.

MLflow's four forms are taken: `inputs`, `instances`, `dataframe_split`, `dataframe_records`.
The check is our own and quick, since MLflow's costs more than most models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from modelswitch.handlers.modelswitch_protocol import Invalid
else:
    from modelswitch_protocol import Invalid

FORMS = ("inputs", "instances", "dataframe_split", "dataframe_records")

# MLflow's column types that are numbers, and numpy's names for them.
_COLUMN_TYPES = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
}

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Spec:
    """One input: its name (None for a bare tensor), dtype and shape, -1 for any length."""

    name: str | None
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def read(self, value: Any) -> Array:
        """The array in `value` (nested lists); raises Invalid with what was expected and found."""
        try:
            found = np.asarray(value)
        except OverflowError:
            raise self._wrong("holds a number too large for it", "too large") from None
        except ValueError:
            raise self._wrong("holds lists of different lengths or depths", "ragged") from None
        if not self.fits(found.shape):
            raise self._wrong(f"has shape {_shape(found.shape)}", list(found.shape))
        return self._cast(found)

    def fits(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, shape, strict=True)
        )

    def _cast(self, found: Array) -> Array:
        kind, wanted = found.dtype.kind, self.dtype.kind
        if kind == "f" and not np.isfinite(found).all():
            raise self._wrong("holds NaN or an infinity, which JSON does not have", "NaN")
        if wanted == "b":
            fine = kind == "b"
        elif wanted == "f":
            fine = kind in "fiub"
        else:
            whole = kind == "f" and bool((found == np.trunc(found)).all())
            fine = kind in "iub" or whole
            if fine and found.size:
                # Above 2**53 a fraction's neighbours are no longer whole numbers one apart.
                limits = np.iinfo(self.dtype)
                low, high = max(limits.min, -(2**53)), min(limits.max, 2**53)
                low, high = (low, high) if whole else (limits.min, limits.max)
                fine = low <= found.min() and found.max() <= high
        if not fine:
            out = " out of its range" if kind in "iu" and wanted in "iu" else ""
            raise self._wrong(f"holds {_kind(found)}{out}", _kind(found))
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(found, dtype=self.dtype)
        if wanted == "f" and not np.isfinite(array).all():
            raise self._wrong("holds a number too large for it", "too large")
        # ascontiguousarray makes at least one dimension, a bare number has none
        return array.reshape(found.shape)

    def _wrong(self, what: str, found: Any) -> Invalid:
        name = f"the input {self.name!r}" if self.name else "the input"
        return Invalid(
            422,
            f"{name} {what}; expected {self.dtype} of shape {_shape(self.shape)}",
            expected={"dtype": str(self.dtype), "shape": list(self.shape)},
            found=found,
        )


@dataclass(frozen=True)
class Signature:
    """A model's inputs. `is_table`: named or numbered columns of one float32 matrix."""

    specs: tuple[Spec, ...]
    is_table: bool

    @classmethod
    def of(cls, inputs: list[dict[str, Any]]) -> Signature:
        """From MLflow's schema as JSON; raises ValueError on what is no number."""
        tensors = [spec for spec in inputs if spec["type"] == "tensor"]
        if len(tensors) == len(inputs) and tensors:
            return cls(tuple(_tensor(spec) for spec in inputs), False)
        unfit = [spec for spec in inputs if spec["type"] not in _COLUMN_TYPES]
        if unfit or not inputs:
            kinds = ", ".join(sorted({str(spec["type"]) for spec in unfit})) or "no inputs"
            raise ValueError(f"the signature has {kinds}: only tensors and number columns are read")
        columns = (
            Spec(spec.get("name"), np.dtype(_COLUMN_TYPES[spec["type"]]), (-1,)) for spec in inputs
        )
        return cls(tuple(columns), True)

    def narrowed(self, index: int, shape: tuple[int, ...]) -> Signature:
        """With the lengths the model itself fixes in `shape` (-1: none) for one input."""
        if self.is_table or index >= len(self.specs):
            return self
        spec = self.specs[index]
        if len(shape) != len(spec.shape):
            return self
        pairs = zip(spec.shape, shape, strict=True)
        narrow = replace(spec, shape=tuple(s if m == -1 else m for s, m in pairs))
        return replace(self, specs=(*self.specs[:index], narrow, *self.specs[index + 1 :]))

    def read(self, body: dict[str, Any]) -> list[Array]:
        """The model's arrays, in the signature's order; raises Invalid."""
        form, value = _form(body)
        if form == "dataframe_split":
            value = _from_split(value)
        elif form == "dataframe_records":
            if not _is_rows(value):
                raise Invalid(422, "dataframe_records is not a list of objects")
            value = _from_rows(value)
        elif form == "instances" and _is_rows(value):
            value = _from_rows(value)
        is_frame = form.startswith("dataframe")
        if self.is_table:
            return [self._table(value)]
        if self.specs[0].name is None:
            return [self._bare(value, is_frame)]
        if not isinstance(value, dict):
            if len(self.specs) > 1:
                raise Invalid(422, f"{form} names no inputs; expected {self._names}")
            value = {self.specs[0].name: value}
        fold = _unflattened if is_frame else lambda cells, _: cells
        return [spec.read(fold(value[name], spec.shape)) for name, spec in self._named(value)]

    def _bare(self, value: Any, is_frame: bool) -> Array:
        spec = self.specs[0]
        if not isinstance(value, dict):
            return spec.read(value)
        if not is_frame:
            raise Invalid(422, f"the model takes one tensor without a name, not {sorted(value)}")
        columns = list(value.values())
        if len(columns) == 1:  # a column whose cells are whole, perhaps flattened, tensors
            return spec.read(_unflattened(columns[0], spec.shape))
        return spec.read(_transposed(columns))

    def _table(self, value: Any) -> Array:
        """One float32 matrix of rows by columns, as MLflow's torch flavor makes of a DataFrame."""
        if isinstance(value, dict):
            if self.specs[0].name is None:
                columns = list(value.values())
            else:
                columns = [value[name] for name, _ in self._named(value)]
            columns = [c if isinstance(c, list) else [c] for c in columns]
        else:
            rows = value if isinstance(value, list) else [value]
            columns = _transposed([row if isinstance(row, list) else [row] for row in rows])
        if len(columns) < len(self.specs):
            raise Invalid(422, f"found {len(columns)} columns; expected {self._names}")
        pairs = zip(self.specs, columns, strict=False)  # MLflow ignores further columns too
        arrays = [spec.read(column) for spec, column in pairs]
        if len({len(array) for array in arrays}) > 1:
            raise Invalid(422, "the columns have different lengths")
        return np.stack(arrays, axis=1).astype(np.float32)

    def _named(self, value: dict[str, Any]) -> list[tuple[str, Spec]]:
        missing = [spec.name for spec in self.specs if spec.name not in value]
        if missing:
            found = ", ".join(map(str, sorted(value)))
            raise Invalid(422, f"missing {missing}; expected {self._names}, found {found}")
        return [(str(spec.name), spec) for spec in self.specs]

    @property
    def _names(self) -> str:
        return ", ".join(
            f"{spec.name or 'column'} ({spec.dtype}, {_shape(spec.shape)})" for spec in self.specs
        )


def _form(body: dict[str, Any]) -> tuple[str, Any]:
    found = [key for key in body if key in FORMS]
    if len(found) != 1:
        raise Invalid(
            400, f"the body must hold one of {', '.join(FORMS)}; found {sorted(body)[:10]}"
        )
    if other := sorted(set(body) - {found[0], "params"}):
        raise Invalid(400, f"beside {found[0]!r} the body holds {other[:10]}")
    if body.get("params"):
        raise Invalid(422, "this model takes no params")
    return found[0], body[found[0]]


def _from_split(value: Any) -> Any:
    """Columns by name, or bare rows when no names are given."""
    if not isinstance(value, dict) or "data" not in value:
        raise Invalid(422, "dataframe_split is not an object with data and columns")
    rows, names = value["data"], value.get("columns")
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise Invalid(422, "dataframe_split's data is not a list of rows")
    if names is None:
        names = list(range(len(rows[0]))) if rows else []
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


def _transposed(rows: list[Any]) -> list[Any]:
    if len({len(row) for row in rows}) > 1:
        raise Invalid(422, "the rows or columns have different lengths")
    return [list(column) for column in zip(*rows, strict=True)]


def _unflattened(cells: Any, shape: tuple[int, ...]) -> Any:
    """Cells that hold flat lists, folded to the tensor's own shape where that is fixed."""
    inner = shape[1:]
    if not inner or -1 in inner or not all(isinstance(cell, list) for cell in cells):
        return cells
    array = np.asarray(cells) if len({len(cell) for cell in cells}) == 1 else None
    if array is None or array.ndim != 2 or array.shape[1] != int(np.prod(inner)):
        return cells
    return array.reshape(-1, *inner)


def _tensor(spec: dict[str, Any]) -> Spec:
    inner = spec["tensor-spec"]
    dtype = np.dtype(inner["dtype"])
    if dtype.kind not in "biuf":
        raise ValueError(f"the signature has a tensor of {dtype}: only numbers are read")
    return Spec(spec.get("name"), dtype, tuple(inner["shape"]))


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def _kind(array: Array) -> str:
    names = {
        "f": "fractions or too large numbers",
        "i": "integers",
        "u": "integers",
        "b": "booleans",
        "U": "strings",
    }
    return names.get(array.dtype.kind, "nulls, objects or numbers too large")
