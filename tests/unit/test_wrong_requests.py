"""What is no request is refused as the caller's, in words, and before it costs anything."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelswitch import handlers

pytestmark = pytest.mark.filterwarnings("ignore")

NPY, BYTES = "application/x-npy", "application/octet-stream"
TENSOR = [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 2]}}]
NAMED = [{"name": "x", **TENSOR[0]}]
WHOLE = [{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1, 2]}}]
SMALL = [{"type": "tensor", "tensor-spec": {"dtype": "int32", "shape": [-1, 2]}}]
TABLE = [{"name": f"c{i}", "type": "double"} for i in range(30)]
BY_PLACE = [{"type": "double"} for _ in range(30)]
WORDS = [{"name": "a", "type": "string"}, {"name": "t", "type": "datetime"}]
OPTIONAL = [{"name": "a", "type": "long", "required": False}]


@pytest.fixture(scope="module", autouse=True)
def flat() -> Iterator[None]:
    folder = str(Path(handlers.__file__).parent)
    for name in [name for name in sys.modules if name.startswith("modelswitch_")]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


def read(inputs: list[dict[str, Any]], *request: Any) -> Any:
    from modelswitch_frames import Frame  # type: ignore[import-not-found]
    from modelswitch_protocol import Request  # type: ignore[import-not-found]
    from modelswitch_tensors import Signature  # type: ignore[import-not-found]

    if inputs in (WORDS, OPTIONAL):
        return Frame.of(inputs).read(Request(*request))[0]
    return Signature.of(inputs, nullable=True).read(Request(*request))[0]


def refused(inputs: list[dict[str, Any]], *request: Any) -> tuple[int, str]:
    from modelswitch_protocol import Invalid

    with pytest.raises(Invalid) as caught:
        read(inputs, *request)
    return caught.value.status, caught.value.message


class Unread(list[Any]):
    """Fails whoever looks further than at its first cell."""

    def __iter__(self) -> Iterator[Any]:
        yield self[0]
        raise AssertionError("looked at more than the first")


@pytest.mark.parametrize(
    ("inputs", "body", "found"),
    [
        (TABLE, {"inputs": Unread([1.5] * 100)}, "found 1 columns; expected 30: c0"),
        (TABLE, {"instances": Unread([1.5] * 100)}, "found 1 columns; expected 30: c0"),
        (TABLE, {"inputs": [Unread([1.5] * 100)]}, "found 100 columns; expected 30: c0"),
        (TABLE, {"dataframe_split": {"data": [Unread([1.5] * 100)]}}, "found 100 columns"),
        (BY_PLACE, {"dataframe_split": {"data": [Unread([1.5] * 100)]}}, "found 100 columns"),
        (TENSOR, {"dataframe_split": {"data": [Unread([1.5] * 100)]}}, "found 100 columns"),
        (TABLE, {"inputs": []}, "found 0 columns; expected 30: c0"),
        (TABLE, {"inputs": [[1.5] * 30, 1.5]}, "different lengths"),
        (TABLE, {"inputs": [[1.5] * 30, [1.5] * 29]}, "different lengths"),
    ],
)
def test_cells_that_fit_no_columns_are_counted_and_not_read(
    inputs: list[dict[str, Any]], body: dict[str, Any], found: str
) -> None:
    status, message = refused(inputs, body)

    assert status == 422
    assert found in message


@pytest.mark.parametrize("rows", [[1, 2], [[1], [2]], [[1], 2]])
def test_one_column_is_read_from_cells_and_from_rows(rows: list[Any]) -> None:
    assert read(TABLE[:1], {"inputs": rows}).tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize(
    "header",
    [
        "{(",
        "'''",
        "  x\n y\n",
        "{[]:1}",
        "{'descr': (), 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '(2,', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (True, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 30 + ", 2)}",
    ],
)
def test_npy_header_that_cannot_be_read_is_the_callers(header: str) -> None:
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))

    status, message = refused(TENSOR, start + header.encode() + bytes(64), {}, NPY)

    assert status == 400
    assert message.startswith("the body is no .npy array: ")


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [(",", "1"), ("(1,2", "1"), ("int,(", "1"), ("f4", "1," * 70 + "64"), ("f4", "9" * 5000)],
)
def test_tensor_headers_that_cannot_be_read_are_the_callers(dtype: str, shape: str) -> None:
    headers = {"x-tensor-dtype": dtype, "x-tensor-shape": shape}

    status, message = refused(TENSOR, bytes(256), headers, BYTES)

    assert status == 400
    assert "X-Tensor-Shape cannot be read: " in message


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["x"], "data": [[[1, [2]]], [[1, 2]]]}},
        {"dataframe_records": [{"x": [1, [2]]}, {"x": [1, 2]}]},
        {"dataframe_records": [{"x": [1, 2]}, {"x": [1]}]},
    ],
)
@pytest.mark.parametrize("inputs", [TENSOR, NAMED], ids=["bare", "named"])
def test_ragged_cells_are_told(inputs: list[dict[str, Any]], body: dict[str, Any]) -> None:
    status, message = refused(inputs, body)

    assert status == 422
    assert "holds lists of different lengths or depths" in message


@pytest.mark.parametrize(
    ("inputs", "body", "said"),
    [
        (WORDS, {"inputs": {"a": ["\ud800"], "t": [None]}}, "'a' holds half a surrogate"),
        (WORDS, {"inputs": {"a": [0], "t": [None]}}, "'a' holds int"),
        (WORDS, {"inputs": {"a": [[]], "t": [None]}}, "'a' holds list"),
        (OPTIONAL, {"inputs": {}}, "found none of the columns a (int64"),
        (OPTIONAL, {"inputs": {"b": [1]}}, "found none of the columns a (int64"),
        (OPTIONAL, {"dataframe_records": [{}]}, "found none of the columns a (int64"),
        (OPTIONAL, {"dataframe_split": {"data": [[]]}}, "found none of the columns a (int64"),
        (
            OPTIONAL,
            {"dataframe_split": {"columns": ["a"], "data": [[1], [2]], "index": [5, "\ud800"]}},
            "index holds half a surrogate",
        ),
    ],
)
def test_what_no_frame_can_hold_is_told(
    inputs: list[dict[str, Any]], body: dict[str, Any], said: str
) -> None:
    status, message = refused(inputs, body)

    assert status == 422
    assert said in message


@pytest.mark.parametrize(
    ("time", "said"),
    [
        *((word, "no ISO time") for word in ("now", "today", "", "NaT", "nan", "None")),
        ("2020-13-01", "no ISO time"),
        ("9999-01-01", "before 1677 or after 2262"),
        ("0001-01-01", "before 1677 or after 2262"),
        ("\ud800", "half a surrogate"),
    ],
)
def test_time_that_is_no_date_is_told(time: str, said: str) -> None:
    status, message = refused(WORDS, {"inputs": {"a": ["x", "y"], "t": ["2020-01-01", time]}})

    assert status == 422
    assert said in message


def test_dates_and_null_stay_what_they_are() -> None:
    times = ["2020-01-01", "20200102", None]

    frame = read(WORDS, {"inputs": {"a": ["\U0001f600", "", None], "t": times}})

    assert frame["t"].isna().tolist() == [False, False, True]
    assert frame["t"].dt.day.tolist()[:2] == [1, 2]


@pytest.mark.parametrize("number", [2**53 + 1, 2**53, -(2**53), -(2**53) - 1])
def test_whole_number_that_a_fraction_may_have_changed_is_refused(number: int) -> None:
    assert refused(WHOLE, {"inputs": [[number, 1.0]]})[0] == 422
    assert read(WHOLE, {"inputs": [[number, 1]]}).tolist() == [[number, 1]]


@pytest.mark.parametrize("number", [2**53 - 1, 1 - 2**53])
def test_whole_number_below_is_kept_beside_a_fraction(number: int) -> None:
    assert read(WHOLE, {"inputs": [[number, 1.0]]}).tolist() == [[number, 1]]


def test_single_precision_does_not_wrap_around_a_shorter_integer() -> None:
    out = io.BytesIO()
    np.save(out, np.array([[2**31, 1]], dtype=np.float32))

    assert refused(SMALL, out.getvalue(), {}, NPY)[0] == 422
