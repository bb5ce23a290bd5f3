"""From a request's JSON to arrays that fit the model's signature, or to what does not fit.

The check is our own and quick, since MLflow's costs more than most models. One array may come as
it is too: as `.npy`, or as bare bytes whose dtype and shape stand in headers.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from modelswitch.handlers.modelswitch_forms import (
        chosen,
        names_of,
        parsed,
        refuse_missing,
        transposed,
    )
    from modelswitch.handlers.modelswitch_protocol import NPY, Invalid, Request
else:
    from modelswitch_forms import chosen, names_of, parsed, refuse_missing, transposed
    from modelswitch_protocol import NPY, Invalid, Request

DTYPE_HEADER, SHAPE_HEADER = "X-Tensor-Dtype", "X-Tensor-Shape"

# MLflow's column types that are numbers, and numpy's names for them.
COLUMN_TYPES = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
}

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Spec:
    """One input: its name (None for a bare tensor), dtype and shape, -1 for any length.

    `nullable`: null, which JSON has for NaN, may stand where a fraction would.
    """

    name: str | None
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nullable: bool = False

    def read(self, value: Any) -> Array:
        """The array in `value` (nested lists); raises Invalid with what was expected and found."""
        try:
            found = np.asarray(value)
        except OverflowError:
            raise self.wrong("holds a number too large for it", "too large") from None
        except ValueError:
            raise self.wrong("holds lists of different lengths or depths", "ragged") from None
        if not self.fits(found.shape):
            raise self.wrong(f"has shape {_shape(found.shape)}", list(found.shape))
        if found.shape and not found.shape[0]:
            raise self.wrong("holds no rows", list(found.shape))
        if found.dtype.hasobject and self.nullable:
            found = _with_nan(found)
        return self._cast(found)

    def fits(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, shape, strict=True)
        )

    def _cast(self, found: Array) -> Array:
        kind, wanted = found.dtype.kind, self.dtype.kind
        if kind == "f" and not self._is_finite(found):
            raise self.wrong("holds NaN or an infinity, which it does not take", "NaN")
        if wanted == "b":
            fine = kind == "b"
        elif wanted == "f":
            fine = kind in "fiub"
        else:
            whole = kind == "f" and bool((found == np.trunc(found)).all())
            fine = kind in "iub" or whole
            if fine and found.size:
                # A fraction of 2**53 may have been 2**53 + 1; as int, float32 is compared exactly.
                limits = np.iinfo(self.dtype)
                low, high = max(limits.min, 1 - 2**53), min(limits.max, 2**53 - 1)
                low, high = (low, high) if whole else (limits.min, limits.max)
                fine = low <= int(found.min()) and int(found.max()) <= high
        if not fine:
            out = " out of its range" if kind in "iu" and wanted in "iu" else ""
            raise self.wrong(f"holds {_kind(found)}{out}", _kind(found))
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(found, dtype=self.dtype)
        if wanted == "f" and not self._is_finite(array):
            raise self.wrong("holds a number too large for it", "too large")
        # ascontiguousarray makes at least one dimension, a bare number has none
        return array.reshape(found.shape)

    def _is_finite(self, array: Array) -> bool:
        """Whether no number is an infinity, nor NaN where that may not be."""
        if self.nullable:
            return not np.isinf(array).any()
        return bool(np.isfinite(array).all())

    @property
    def text(self) -> str:
        return f"{self.dtype}, {_shape(self.shape)}"

    def wrong(self, what: str, found: Any) -> Invalid:
        name = f"the input {self.name!r}" if self.name else "the input"
        return Invalid(
            422,
            f"{name} {what}; expected {self.dtype} of shape {_shape(self.shape)}",
            expected={"dtype": str(self.dtype), "shape": list(self.shape)},
            found=found,
        )


@dataclass(frozen=True)
class Signature:
    """A model's inputs. `is_table`: columns of one matrix, which has the dtype `table_dtype`."""

    specs: tuple[Spec, ...]
    is_table: bool
    table_dtype: np.dtype[Any] = np.dtype(np.float32)  # noqa: RUF009 - a dtype never changes

    @classmethod
    def of(
        cls, inputs: list[dict[str, Any]], table_dtype: Any = None, *, nullable: bool = False
    ) -> Signature:
        """From MLflow's schema as JSON; raises ValueError on what is no number.

        `table_dtype` None: the one that holds every column, as pandas chooses it. `nullable`:
        whether null may stand in fractions.
        """
        tensors = [spec for spec in inputs if spec["type"] == "tensor"]
        if len(tensors) == len(inputs) and tensors:
            return cls(tuple(_tensor(spec, nullable) for spec in inputs), False)
        unfit = [spec for spec in inputs if spec["type"] not in COLUMN_TYPES]
        if unfit or not inputs:
            kinds = ", ".join(sorted({str(spec["type"]) for spec in unfit})) or "no inputs"
            raise ValueError(f"the signature has {kinds}: only tensors and number columns are read")
        columns = tuple(column(spec, nullable=nullable) for spec in inputs)
        common = np.result_type(*(column.dtype for column in columns))
        return cls(columns, True, np.dtype(table_dtype or common))

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

    def read(self, request: Request) -> list[Array]:
        """The model's arrays, in the signature's order; raises Invalid."""
        arrays, params = self.read_with_params(request)
        if params:
            raise Invalid(422, f"this model takes no params; found {sorted(params)[:10]}")
        return arrays

    def read_with_params(self, request: Request) -> tuple[list[Array], dict[str, Any]]:
        if request.is_binary:
            return [self._binary(_array(request))], {}
        form, value, params = parsed(request.body, self._widest)
        return self._arrays(form, value), params

    def _arrays(self, form: str, value: Any) -> list[Array]:
        is_frame = form.startswith("dataframe")
        if self.is_table:
            return [self.table(value)]
        if self.specs[0].name is None:
            return [self._bare(value, is_frame)]
        if not isinstance(value, dict):
            if len(self.specs) > 1:
                raise Invalid(422, f"{form} names no inputs; expected {self._names}")
            value = {self.specs[0].name: value}
        fold = _unflattened if is_frame else lambda cells, _: cells
        return [spec.read(fold(value[name], spec.shape)) for name, spec in self._named(value)]

    def _binary(self, array: Array) -> Array:
        if not self.is_table:
            if len(self.specs) > 1:
                raise Invalid(415, f"the model takes {len(self.specs)} inputs: {self._names}")
            return self.specs[0].read(array)
        if array.ndim != 2 or array.shape[1] != len(self.specs):
            found = f"an array of shape {_shape(array.shape)}"
            raise Invalid(422, f"{found} came; expected one column for each of {self._names}")
        columns = [spec.read(array[:, i]) for i, spec in enumerate(self.specs)]
        return np.stack(columns, axis=1).astype(self.table_dtype)

    def _bare(self, value: Any, is_frame: bool) -> Array:
        spec = self.specs[0]
        if not isinstance(value, dict):
            return spec.read(value)
        if not is_frame:
            raise Invalid(422, f"the model takes one tensor without a name, not {sorted(value)}")
        columns = list(value.values())
        if len(columns) == 1:  # a column whose cells are whole, perhaps flattened, tensors
            return spec.read(_unflattened(columns[0], spec.shape))
        return spec.read(transposed(columns))

    def table(self, value: Any) -> Array:
        """One matrix of rows by columns, as MLflow's flavors make of a DataFrame."""
        columns = chosen(self.specs, value)
        if (quick := self._quick(columns)) is not None:
            return quick
        arrays = [spec.read(cells) for spec, cells in zip(self.specs, columns, strict=True)]
        if len({len(array) for array in arrays}) > 1:
            raise Invalid(422, "the columns have different lengths")
        return np.stack(arrays, axis=1).astype(self.table_dtype)

    def _quick(self, columns: list[list[Any]]) -> Array | None:
        """All columns in one go where nothing can be wrong with any; None: look at each."""
        if not self._is_plain:
            return None
        try:
            found = np.array(columns)
        except (ValueError, OverflowError):
            return None
        if found.ndim != 2 or found.dtype.kind not in "fi" or not found.size:
            return None
        array = np.ascontiguousarray(found.T, dtype=self.table_dtype)
        return array if np.isfinite(array).all() else None

    def _named(self, value: dict[str, Any]) -> list[tuple[str, Spec]]:
        refuse_missing(self.specs, value)
        return [(str(spec.name), spec) for spec in self.specs]

    @cached_property
    def _is_plain(self) -> bool:
        """Whether every column is of fractions: any number that is not too large will do."""
        return self.is_table and all(spec.dtype.kind == "f" for spec in self.specs)

    @property
    def _widest(self) -> int | None:
        """How many columns without names it can have; None: any number."""
        if self.is_table or self.specs[0].name is not None:
            return len(self.specs)
        width = self.specs[0].shape[1] if len(self.specs[0].shape) > 1 else 1
        return max(width, 1) if width != -1 else None

    @property
    def _names(self) -> str:
        return names_of(self.specs)


def column(spec: dict[str, Any], *, nullable: bool = False) -> Spec:
    """One of MLflow's columns of numbers."""
    dtype = np.dtype(COLUMN_TYPES[spec["type"]])
    return Spec(spec.get("name"), dtype, (-1,), nullable and dtype.kind == "f")


def _array(request: Request) -> Array:
    """The array that came as the body; raises Invalid."""
    content = request.bytes
    if request.content_type == NPY:
        try:
            return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        except Exception as error:  # its parser of headers raises whatever Python's own does
            raise Invalid(400, f"the body is no .npy array: {error}") from error
    if request.content_type != "application/octet-stream":
        raise Invalid(415, f"the model takes no {request.content_type}; send JSON or {NPY}")
    kind, lengths = (request.headers.get(h.lower(), "") for h in (DTYPE_HEADER, SHAPE_HEADER))
    try:
        dtype = np.dtype(kind or "V")
        shape = tuple(int(part) for part in lengths.split(",") if part.strip())
    except Exception as error:  # np.dtype reads "(1,2" as Python
        raise Invalid(400, f"{DTYPE_HEADER} or {SHAPE_HEADER} cannot be read: {error}") from error
    if dtype.kind not in "biuf" or any(length < 0 for length in shape):
        raise Invalid(400, f"bytes need {DTYPE_HEADER} (float32) and {SHAPE_HEADER} (3,1,8,8)")
    wanted = math.prod(shape) * dtype.itemsize
    if len(content) != wanted:
        what = f"{dtype} of shape {_shape(shape)}"
        raise Invalid(422, f"{len(content)} bytes came; {what} has {wanted}")
    try:
        return np.frombuffer(content, dtype.newbyteorder("<")).reshape(shape)
    except ValueError as error:  # more dimensions than an array can have
        raise Invalid(400, f"{SHAPE_HEADER} cannot be read: {error}") from error


def _unflattened(cells: Any, shape: tuple[int, ...]) -> Any:
    """Cells that hold flat lists, folded to the tensor's own shape where that is fixed."""
    inner = shape[1:]
    if not inner or -1 in inner or not all(isinstance(cell, list) for cell in cells):
        return cells
    try:
        array = np.asarray(cells)
    except (ValueError, OverflowError):  # ragged: the tensor says what it is instead
        return cells
    if array.ndim != 2 or array.shape[1] != int(np.prod(inner)):
        return cells
    return array.reshape(-1, *inner)


def _tensor(spec: dict[str, Any], nullable: bool = False) -> Spec:
    inner = spec["tensor-spec"]
    dtype = np.dtype(inner["dtype"])
    if dtype.kind not in "biuf":
        raise ValueError(f"the signature has a tensor of {dtype}: only numbers are read")
    nullable = nullable and dtype.kind == "f"
    return Spec(spec.get("name"), dtype, tuple(inner["shape"]), nullable)


def _with_nan(found: Array) -> Array:
    """Objects that are numbers and nulls, as numbers; anything else as it was."""
    kinds = {type(cell) for cell in found.flat}
    if not kinds <= {float, int, bool, type(None)}:
        return found
    try:
        return found.astype(np.float64)
    except OverflowError:
        return found


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
