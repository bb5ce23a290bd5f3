"""What counts as the right answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelswitch.archive.golden import Golden, compare, kind_of, outline

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, width=32),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
).filter(lambda value: "inf" not in repr(value))


def golden(kind: Any, expected: Any, k: int | None = None) -> Golden:
    return Golden(kind=kind, request={"inputs": []}, expected=expected, k=k)


@given(json_values)
def test_every_answer_is_right_for_itself(value: Any) -> None:
    assert compare(golden("exact", value), value) is None
    assert compare(golden("close", value), value) is None
    assert compare(golden("schema", outline(value)), value) is None


@pytest.mark.parametrize(
    ("expected", "got", "why"),
    [
        ({"predictions": [3]}, {"predictions": [7]}, "got 7, expected 3 at predictions[0]"),
        ({"predictions": [3]}, {"predictions": [3.0]}, "got 3, expected 3 at predictions[0]"),
        ({"predictions": ["a"]}, {"predictions": ["b"]}, "got 'b', expected 'a' at predictions[0]"),
        (
            {"predictions": [1.0]},
            {"predictions": [1.001]},
            "got 1.001, expected 1 at predictions[0]",
        ),
        ({"predictions": [1, 2]}, {"predictions": [1]}, "got 1 items, expected 2 at predictions"),
        ({"predictions": [[1]]}, {"predictions": [1]}, "got 1, expected a list at predictions[0]"),
        ({"predictions": []}, {"error": "x"}, "got no 'predictions'"),
        ({"a": 1}, {"a": 1, "b": 2}, "got 'b', which is not expected"),
        ({"a": True}, {"a": 1}, "got 1, expected True at a"),
        ({"a": 1.0}, {"a": None}, "got None, expected 1 at a"),
        ({"a": 1.0}, {"a": float("nan")}, "got nan, expected 1 at a"),
        ({"a": {}}, "Service Unavailable", "got 'Service Unavailable', expected an object"),
    ],
)
def test_wrong_answer_is_named_with_its_place(expected: Any, got: Any, why: str) -> None:
    assert compare(golden("close", expected), got) == why


@pytest.mark.parametrize(("got", "is_right"), [(1.00009, True), (1.0002, False), (1, True)])
def test_float_may_differ_by_the_tolerance(got: float, is_right: bool) -> None:
    assert (compare(golden("close", [1.0]), [got]) is None) is is_right


@pytest.mark.parametrize(("got", "is_right"), [(298_020.0, True), (298_200.0, False)])
def test_an_absolute_tolerance_is_as_large_as_the_answers_are(got: float, is_right: bool) -> None:
    wide = golden("close", [298_000.0]).model_copy(update={"rtol": 0.0, "atol": 29.8})

    again = Golden.model_validate_json(wide.model_dump_json())

    assert again == wide
    assert (compare(again, [got]) is None) is is_right


@pytest.mark.parametrize("atol", [-1.0, float("inf"), float("nan")])
def test_a_tolerance_is_a_finite_number(atol: float) -> None:
    with pytest.raises(ValidationError, match="atol"):
        Golden(kind="close", request=None, expected=[1.0], atol=atol)


def test_topk_compares_places_and_not_scores() -> None:
    expected = {"predictions": [[0.1, 0.7, 0.2], [0.5, 0.1, 0.4]]}
    other = {"predictions": [[0.0, 0.9, 0.1], [0.6, 0.3, 0.35]]}

    assert compare(golden("topk", expected, k=2), other) is None
    swapped = {"predictions": [[0.1, 0.7, 0.2], [0.4, 0.1, 0.5]]}
    why = compare(golden("topk", expected, k=2), swapped)
    assert why == "got [2, 0], expected [0, 2] as best at predictions[1]"


@pytest.mark.parametrize(
    ("expected", "got", "k", "why"),
    [
        ([[237.96]], [[-1e30]], 1, "got -1e+30, expected 237.96 at [0][0]"),
        ([[237.96]], [[237.97]], 1, None),
        ([237.96, 12.5], [237.96], 3, "got 1 items, expected 2"),
        ([0.1, 0.7, 0.2], [1.0, 9.0, 2.0], 1000, "got 1, expected 0.1 at [0]"),
        ([0.1, 0.7, 0.2], [1.0, 9.0, 2.0], 3, "got 1, expected 0.1 at [0]"),
        ([0.1, 0.7, 0.2], [1.0, 9.0, 2.0], 2, None),
        ([0.1, 0.7, 0.2], [0.1, 0.2, 0.7], 3, "got [2, 1, 0], expected [1, 2, 0] as best"),
        ([0.7, 0.1, 0.2], [float("nan")] * 3, 1, "got nan, expected 0.7 at [0]"),
    ],
)
def test_topk_compares_the_numbers_of_a_row_that_has_no_more_of_them(
    expected: Any, got: Any, k: int, why: str | None
) -> None:
    assert compare(golden("topk", expected, k=k), got) == why


def test_topk_compares_the_first_labels_of_a_picture() -> None:
    def labels(*names: str) -> dict[str, Any]:
        return {"predictions": [[{"label": n, "score": 1 / (i + 2)} for i, n in enumerate(names)]]}

    expected = labels("cat", "dog", "eel")

    assert compare(golden("topk", expected, k=1), labels("cat", "eel", "dog")) is None
    why = compare(golden("topk", expected, k=2), labels("cat", "eel", "dog"))
    assert why == "got ['cat', 'eel'], expected ['cat', 'dog'] as best at predictions[0]"
    assert compare(golden("close", expected), labels("cat", "eel", "dog"))


def test_schema_asks_for_keys_types_and_shapes_alone() -> None:
    expected = outline({"predictions": [[0.1, 0.2], [0.3, 0.4]]})

    assert compare(golden("schema", expected), {"predictions": [[9.0, 8.0], [7.0, 6.0]]}) is None
    assert compare(golden("schema", expected), {"predictions": [[9.0, 8.0]]}) is not None
    assert compare(golden("schema", expected), {"predictions": [[1, 2], [3, 4]]}) is not None


@pytest.mark.parametrize(
    ("first", "second", "topk", "kind"),
    [
        ([1, "a"], [1, "a"], None, "exact"),
        ([1.0], [1.0], None, "close"),
        ([1.0], [1.00001], None, "close"),
        ([1.0], [2.0], None, "schema"),
        ([1], [2], None, "schema"),
        ([[0.1, 0.9]], [[0.2, 0.8]], 1, "topk"),
        ([[0.1, 0.9]], [[0.9, 0.1]], 1, "schema"),
    ],
)
def test_kind_is_the_strictest_two_answers_allow(
    first: Any, second: Any, topk: int | None, kind: str
) -> None:
    assert kind_of(first, second, topk=topk) == kind
