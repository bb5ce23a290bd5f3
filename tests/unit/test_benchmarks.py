"""What the benchmarks decide by: figures against budgets, and answers against the truth."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks.clients import Request, Truth, is_close, judge
from benchmarks.figures import Figure, Measured, Table, percentile
from benchmarks.traffic import Window, report

TRUTHS = {
    "digits@2": Truth("sha256:two", ([[0.25, 0.75]],)),
    "digits@3": Truth("sha256:three", ([[0.75, 0.25]],)),
}


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        (Figure("x", 2.5, "s", at_most=2.5), "ok"),
        (Figure("x", 2.6, "s", at_most=2.5), "over"),
        (Figure("x", 9.9, "", at_least=10), "below"),
        (Figure("x", math.nan, "s", at_most=2.5), "over"),
        (Figure("x", math.nan, "", at_least=10), "below"),
        (Figure("x", 1.0, "s"), ""),
    ],
)
def test_a_figure_is_held_against_its_budget(figure: Figure, verdict: str) -> None:
    assert figure.verdict == verdict
    assert figure.is_kept == (verdict in ("ok", ""))


def test_percentiles_are_values_that_were_measured() -> None:
    values = [5.0, 1.0, 3.0, 2.0, 4.0]

    assert [percentile(values, share) for share in (0.0, 0.5, 0.95, 1.0)] == [1.0, 3.0, 5.0, 5.0]
    assert math.isnan(percentile([], 0.5))


def test_the_text_shows_budget_and_verdict_beside_each_figure() -> None:
    measured = Measured(
        "start",
        (Figure("help", 0.123, "s", at_most=0.3), Figure("models", 3.0, "s", at_most=2.5)),
        (Table(("part", "s"), [("import", "0.1")]),),
    )

    lines = measured.text.splitlines()

    assert lines[2].split() == ["help", "0.12", "s", "≤", "0.3", "s", "ok"]
    assert lines[3].split() == ["models", "3", "s", "≤", "2.5", "s", "over"]
    assert lines[-1].split() == ["import", "0.1"]
    assert not measured.is_kept
    assert json.loads(json.dumps(measured.to_json()))["kept"] is False


def answered(version: str, digest: str, predictions: object) -> tuple[str | None, bool]:
    headers = {"X-Model-Version": version, "X-Archive-Digest": digest}
    return judge(200, headers, json.dumps({"predictions": predictions}).encode(), 0, TRUTHS)


def test_an_answer_is_right_when_the_version_it_names_answers_so() -> None:
    assert answered("digits@2", "sha256:two", [[0.25000001, 0.75]]) == (None, False)
    assert answered("digits@3", "sha256:three", [[0.75, 0.25]]) == (None, False)


@pytest.mark.parametrize(
    ("version", "digest", "predictions"),
    [
        ("digits@2", "sha256:two", [[0.75, 0.25]]),  # what the other version says
        ("digits@3", "sha256:two", [[0.75, 0.25]]),
        ("digits@4", "sha256:four", [[0.25, 0.75]]),
        ("", "", [[0.25, 0.75]]),
        ("digits@2", "sha256:two", [[0.25]]),
        ("digits@2", "sha256:two", [["0.25", 0.75]]),
    ],
)
def test_any_other_answer_is_wrong(version: str, digest: str, predictions: object) -> None:
    fault, is_wrong = answered(version, digest, predictions)

    assert fault
    assert is_wrong


def test_an_error_is_a_failed_request_and_no_wrong_answer() -> None:
    assert judge(503, {}, b"{}", 0, TRUTHS) == ("HTTP 503", False)


def test_what_is_no_json_is_a_wrong_answer() -> None:
    headers = {"X-Model-Version": "digits@2", "X-Archive-Digest": "sha256:two"}

    assert judge(200, headers, b"<html>", 0, TRUTHS) == ("is no prediction", True)


def test_predictions_agree_within_the_golden_tolerance_only() -> None:
    assert is_close([1.0, [2.0]], [1.00005, [2.0]])
    assert not is_close([1.0], [1.001])
    assert not is_close([1.0], 1.0)


def test_traffic_counts_every_request_once_and_tells_switches_from_what_lies_between() -> None:
    requests = [
        Request(0.0, 0.5),
        Request(1.9, 2.1),  # began before the command
        Request(3.0, 3.2),  # while the pointer moved
        Request(3.1, 3.4, "HTTP 503"),
        Request(5.0, 5.1, "is not what digits@2 answers", wrong=True),
    ]

    measured = report(requests, [Window(2.0, 3.1, 3.3, 4.0)], 10.0, long=False)

    assert {f.name: f.value for f in measured.figures} == {
        "switches": 1,
        "requests": 5,
        "failed": 1,
        "wrong": 1,
        "requests a second": 0.5,
    }
    assert [row[:2] for row in measured.tables[0].rows] == [
        ("between commands", "2"),
        ("while a command runs", "3"),
        ("row to last proof", "2"),
    ]
    assert not measured.is_kept
    assert measured.notes == ("1 × HTTP 503", "1 × is not what digits@2 answers")
