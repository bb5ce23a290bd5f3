"""Every flavor, in every form, right and wrong: as MLflow answers it, or a 4xx that says why.

In a worker of TorchServe's own code, without its frontend; tests/stack/test_protocol.py asks the
real one.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelswitch.archive.build import Built, VersionSource, build
from modelswitch.archive.golden import Golden, compare
from modelswitch.archive.recipe import Recipe
from modelswitch.archive.reference import Reference
from tests import trained
from tests.trained import Trained
from tests.worker import Answer, Ask, Worker, extracted

pytest.importorskip("ts.service")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # MLflow's and torch's, of formats that age
    pytest.mark.timeout(600),
]

FORMS = ("inputs", "instances", "dataframe_split", "dataframe_records")
OF_ARRAYS = ("torch_exported", "torch_script", "torch_pickled", "torch_state_dict", "onnx")
OF_COLUMNS = (
    *("sklearn_columns", "sklearn_probabilities", "sklearn_with_nan"),
    *("sklearn_by_name", "xgboost", "lightgbm", "statsmodels"),
)
NAMES = tuple(maker.__name__ for maker in trained.ALL)


@dataclass(frozen=True)
class Served:
    trained: Trained
    built: Built
    worker: Worker

    @cached_property
    def reference(self) -> Reference:
        return Reference("model@1", str(self.trained.folder))

    def mlflows(self, body: Any) -> Golden:
        """What MLflow's own server would answer, to be met within the golden tolerance."""
        return Golden(kind="close", request=body, expected=self.reference.answer(body))

    def ask(self, asked: Ask | Any) -> Answer:
        [answer] = self.worker.ask(asked)
        return answer

    @property
    def right(self) -> Any:
        return self.trained.bodies["dataframe_split"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Served]:
    """By the flavor's name; made at its first use."""
    made: dict[str, Served] = {}

    def serve(name: str) -> Served:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            model = getattr(trained, name)(folder / "saved")
            source = VersionSource("model", "1", "r1", "models:/m-1", model.folder)
            built = build(source, Recipe.model_validate(dict(model.recipe)), folder / "built")
            worker = Worker(extracted(built.path, folder / "extracted"))
            made[name] = Served(model, built, worker)
        return made[name]

    return serve


@pytest.mark.parametrize("name", NAMES)
def test_flavor_gets_its_handler_and_says_whether_it_runs_code(
    served: Callable[[str], Served], name: str
) -> None:
    document = served(name).built.document

    assert document.recipe.handler == served(name).trained.handler
    assert document.runs_code == (
        name not in ("torch_exported", "torch_script", "onnx", "sklearn_columns")
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_answers_are_mlflows_in_every_form(
    served: Callable[[str], Served], name: str, form: str
) -> None:
    body = served(name).trained.bodies[form]

    answer = served(name).ask(body)

    assert answer.status == 200, answer.body
    assert compare(served(name).mlflows(body), answer.json) is None


@pytest.mark.parametrize("name", NAMES)
def test_answers_in_a_batch_are_each_ones_own(served: Callable[[str], Served], name: str) -> None:
    bodies = list(served(name).trained.bodies.values())
    wrong = {"inputs": "no such thing"}

    answers = served(name).worker.ask(*bodies, wrong, *bodies)

    assert answers[4].status == 422
    for body, answer in zip([*bodies, *bodies], [*answers[:4], *answers[5:]], strict=True):
        assert compare(served(name).mlflows(body), answer.json) is None


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def raw(array: Any) -> Ask:
    shape = ", ".join(map(str, array.shape))
    headers = {"X-Tensor-Dtype": str(array.dtype), "X-Tensor-Shape": shape}
    return Ask(array.tobytes(), "application/octet-stream", headers)


@pytest.mark.parametrize("name", [*OF_ARRAYS, "sklearn_array", *OF_COLUMNS])
def test_arrays_come_and_go_as_bytes(served: Callable[[str], Served], name: str) -> None:
    rows = np.asarray(served(name).trained.rows)
    expected = served(name).ask(served(name).right).json["predictions"]
    if isinstance(expected, dict):
        [expected] = expected.values()

    for ask in (Ask(npy(rows), "application/x-npy"), raw(rows)):
        asked = Ask(ask.content, ask.content_type, {**ask.headers, "Accept": "application/x-npy"})
        plain, array = served(name).ask(ask), served(name).ask(asked)
        assert plain.status == 200, plain.body
        assert array.status == 200, array.body
        assert array.headers["content-type"] == "application/x-npy"
        found = np.load(io.BytesIO(array.body), allow_pickle=False)
        assert np.allclose(found.reshape(len(rows), -1), _matrix(expected), rtol=1e-4, atol=1e-5)
        assert np.allclose(_matrix(plain.json["predictions"]), _matrix(expected), rtol=1e-4)


def _matrix(predictions: Any) -> Any:
    if isinstance(predictions, dict):
        [predictions] = predictions.values()
    if isinstance(predictions[0], dict):
        predictions = [list(row.values()) for row in predictions]
    return np.asarray(predictions, float).reshape(len(predictions), -1)


# What anybody may send to anything

DEEP = b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}"
ANY = {
    "no body": (Ask(b""), 400, "no JSON object"),
    "no JSON": (Ask(b"{nonsense"), 400, "not JSON"),
    "no text": (Ask(b"\xff\xfe\x00"), 400, "not JSON"),
    "too deep": (Ask(b"[" * 100_000), 400, "not JSON"),
    "deep": (Ask(DEEP), 422, ""),
    "a list": (Ask([1, 2]), 400, "not a JSON object but list"),
    "nothing": (Ask({}), 400, "one of inputs, instances"),
    "unknown": (Ask({"rows": [[1]]}), 400, "one of inputs, instances"),
    "two forms": (Ask({"inputs": [], "instances": []}), 400, "one of inputs, instances"),
    "more": (Ask({"inputs": [], "more": 1}), 400, "beside 'inputs'"),
    "params": (Ask({"inputs": [], "params": 3}), 422, "params is not an object"),
    "null": (Ask({"inputs": None}), 422, ""),
    "words": (Ask({"inputs": "no such thing"}), 422, ""),
    "empty": (Ask({"inputs": []}), 422, ""),
    "no rows": (Ask({"dataframe_records": []}), 422, "not a list of objects"),
    "ragged": (Ask({"inputs": [[1, 2], [3]]}), 422, ""),
    "objects": (Ask({"inputs": [[{}, {}]]}), 422, ""),
    "no split": (Ask({"dataframe_split": [1]}), 422, "not an object with data"),
    "no records": (Ask({"dataframe_records": {"a": 1}}), 422, "not a list of objects"),
    "other names": (Ask({"dataframe_records": [{"a": 1}, {"b": 1}]}), 422, "same names"),
    "CSV": (Ask(b"a,b\n1,2\n", "text/csv"), 415, "text/csv"),
    "XML": (Ask(b"<a/>", "application/xml"), 415, "application/xml"),
    "text": (Ask(b"hello", "text/plain"), 400, "not JSON"),
    "PNG": (Ask(b"\x89PNG", "image/png"), 415, "image/png"),
    "no .npy": (Ask(b"hello", "application/x-npy"), (400, 415), ""),
    "no bytes": (Ask(b"", "application/x-npy"), (400, 415), ""),
    "cut": (Ask(npy(np.zeros((2, 3)))[:-1], "application/x-npy"), (400, 415), ""),
    "pickle": (Ask(npy(np.array([print])), "application/x-npy"), (400, 415), ""),
    "complex": (Ask(npy(np.zeros(3, complex)), "application/x-npy"), (415, 422), ""),
    "one number": (Ask(npy(np.float64(3)), "application/x-npy"), (415, 422), ""),
    "no headers": (Ask(b"12345678", "application/octet-stream"), (400, 415), ""),
    "no dtype": (
        Ask(b"12345678", "application/octet-stream", {"X-Tensor-Shape": "1"}),
        (400, 415),
        "",
    ),
    "objects' dtype": (
        Ask(
            b"12345678", "application/octet-stream", {"X-Tensor-Dtype": "O", "X-Tensor-Shape": "1"}
        ),
        (400, 415),
        "",
    ),
    "too large": (
        Ask(
            b"1234",
            "application/octet-stream",
            {"X-Tensor-Dtype": "float32", "X-Tensor-Shape": "4000000000,4000000000"},
        ),
        (415, 422),
        "",
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_the_caller_got_wrong_is_a_4xx_and_spoils_nothing(
    served: Callable[[str], Served], name: str
) -> None:
    right = served(name).ask(served(name).right).body
    asks = [ask for ask, _, _ in ANY.values()]

    answers = served(name).worker.ask(served(name).right, *asks, served(name).right)

    assert answers[0].body == answers[-1].body == right
    for (what, (_, status, words)), answer in zip(ANY.items(), answers[1:-1], strict=True):
        wanted = status if isinstance(status, tuple) else (status,)
        assert answer.status in wanted, (what, answer)
        assert words in answer.message, (what, answer.message)
        assert len(answer.body) < 4000, what
        assert answer.headers["X-Archive-Digest"] == served(name).built.digest


# What tables are sent


def cells(change: Callable[[list[Any]], Any]) -> Callable[[Trained], Any]:
    """The first row changed, as dataframe_split."""

    def body(model: Trained) -> Any:
        body = json.loads(json.dumps(model.bodies["dataframe_split"]))
        rows = body["dataframe_split"]["data"]
        rows[0] = change(rows[0])
        return body

    return body


def without(place: int) -> Callable[[Trained], Any]:
    def body(model: Trained) -> Any:
        rows = model.rows.drop(columns=model.rows.columns[place])
        return Trained(model.folder, rows, "").bodies["dataframe_records"]

    return body


def split(**changed: Any) -> Callable[[Trained], Any]:
    def body(model: Trained) -> Any:
        found = model.bodies["dataframe_split"]
        return found | {"dataframe_split": found["dataframe_split"] | changed}

    return body


TABLES: dict[str, tuple[Callable[[Trained], Any], str]] = {
    "a word": (cells(lambda row: ["x", *row[1:]]), "holds strings"),
    "a list": (cells(lambda row: [[1], *row[1:]]), "holds lists"),
    "an object": (cells(lambda row: [{}, *row[1:]]), "holds nulls, objects"),
    "too large": (cells(lambda row: [10**400, *row[1:]]), "too large"),
    "too long": (cells(lambda row: [*row, 1.0]), "not as long as its columns"),
    "too short": (cells(lambda row: row[1:]), "not as long as its columns"),
    "no rows": (split(data=[]), "no rows"),
    "one name twice": (split(columns=["age"] * 10), ""),
    "no names": (split(columns=3), "not as long as its columns"),
    "other index": (split(index=[1]), "index is not one label for each row"),
    "index of lists": (split(index=[[1], [2], [3], [4]]), "index holds lists"),
    "more in split": (split(dtype="x"), "holds ['dtype']"),
    "by place, few": (lambda model: {"inputs": model.rows.to_numpy()[:, 1:].tolist()}, "columns"),
    "by place, many": (
        lambda model: {"inputs": [[*row, 1.0] for row in model.rows.to_numpy().tolist()]},
        "columns",
    ),
    "without one": (without(2), "missing "),
}


# An array has no index: what is sent of one is not looked at.
HAVE_NO_INDEX = ("sklearn_columns", "sklearn_probabilities", "sklearn_with_nan")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (name, what)
        for name in OF_COLUMNS
        for what in TABLES
        if not ("index" in what and name in HAVE_NO_INDEX)
    ],
)
def test_table_that_does_not_fit_is_a_422_that_says_what(
    served: Callable[[str], Served], name: str, what: str
) -> None:
    change, words = TABLES[what]

    answer = served(name).ask(change(served(name).trained))

    assert answer.status == 422, answer.body
    assert words in answer.message


@pytest.mark.parametrize("name", OF_COLUMNS)
def test_further_columns_are_ignored_and_their_order_is_free(
    served: Callable[[str], Served], name: str
) -> None:
    rows = served(name).trained.rows
    body = Trained(Path(), rows.assign(more=1.0)[["more", *rows.columns[::-1]]], "").bodies

    for form in FORMS:
        answer = served(name).ask(body[form])
        assert compare(served(name).mlflows(body[form]), answer.json) is None


@pytest.mark.parametrize("name", OF_COLUMNS)
@pytest.mark.parametrize("number", [1e308, -1e308, 1e39, None])
def test_extreme_cell_is_answered_as_mlflow_does_or_refused(
    served: Callable[[str], Served], name: str, number: float | None
) -> None:
    body = cells(lambda row: [row[0], number, *row[2:]])(served(name).trained)

    answer = served(name).ask(body)

    takes_null = ("sklearn_with_nan", "sklearn_probabilities", "xgboost", "lightgbm", "statsmodels")
    if number is None and not name.endswith("by_name"):  # its first column is not looked at
        assert (answer.status == 200) == (name in takes_null), answer.body
    if answer.status == 200:
        assert compare(served(name).mlflows(body), answer.json) is None
    else:
        assert answer.status == 422, answer.body
        assert "does not take" in answer.message


@pytest.mark.parametrize("name", OF_ARRAYS)
@pytest.mark.parametrize("number", [1e308, 1e39, None, float("nan"), float("inf")])
def test_number_that_the_dtype_does_not_have_is_a_422(
    served: Callable[[str], Served], name: str, number: float | None
) -> None:
    rows = served(name).trained.rows.tolist()
    rows[0][0] = number

    answer = served(name).ask({"inputs": rows})

    assert answer.status == 422, answer.body
    assert answer.json["expected"]["dtype"] == "float32"


@pytest.mark.parametrize("name", [*OF_ARRAYS, "sklearn_array"])
@pytest.mark.parametrize("shape", [(0, 64), (2, 63), (64,), (1, 1, 64), ()])
def test_shape_that_does_not_fit_is_a_422_that_says_both(
    served: Callable[[str], Served], name: str, shape: tuple[int, ...]
) -> None:
    array = np.zeros(shape, np.float32)

    for ask in (Ask(npy(array), "application/x-npy"), raw(array), Ask({"inputs": array.tolist()})):
        answer = served(name).ask(ask)
        if not ask.content:
            assert answer.status == 400
            continue
        assert answer.status == 422, answer.body
        assert answer.json["expected"] == {"dtype": "float32", "shape": [-1, 64]}


# What only some take


def test_null_is_null_in_every_form(served: Callable[[str], Served]) -> None:
    model = served("python")
    rows = model.trained.rows.assign(city=["Bern", None, "Uri"])

    answers = {
        form: model.ask(body).json["predictions"]
        for form, body in Trained(Path(), rows, "").bodies.items()
    }

    # MLflow reads the null of `inputs` and `instances` as the word None
    assert [row["city"] for row in answers["inputs"]] == ["Bern", None, "Uri"]
    assert all(answer == answers["dataframe_split"] for answer in answers.values())
    body = Trained(Path(), rows, "").bodies["dataframe_split"]
    assert compare(model.mlflows(body), {"predictions": answers["dataframe_split"]}) is None


def test_column_may_be_left_out_where_the_signature_says_so(
    served: Callable[[str], Served],
) -> None:
    model = served("python")
    body = Trained(Path(), model.trained.rows.drop(columns="extra"), "").bodies

    for form in FORMS:
        answer = model.ask(body[form])
        assert compare(model.mlflows(body[form]), answer.json) is None


def test_params_are_the_signatures_with_its_defaults(served: Callable[[str], Served]) -> None:
    model = served("python")

    for params in ({}, {"factor": 7}, {"names": ["q"]}, {"factor": 0.5, "names": ["q", "r"]}):
        body = {**model.right, "params": params}
        answer = model.ask(body)
        assert answer.status == 200, answer.body
        assert compare(model.mlflows(body), answer.json) is None


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"factor": "x"}, "'factor'"),
        ({"names": "q"}, "'names'"),
        ({"more": 1}, "takes factor (DataType.double, 2.0), names"),
    ],
)
def test_params_that_do_not_fit_are_a_422(
    served: Callable[[str], Served], params: dict[str, Any], words: str
) -> None:
    answer = served("python").ask({**served("python").right, "params": params})

    assert answer.status == 422
    assert words in answer.message


def test_times_with_a_zone_are_a_422(served: Callable[[str], Served]) -> None:
    records = [{"amount": 1, "when": "2024-05-01T00:00:00Z", "city": "Bern"}]

    answer = served("python").ask({"dataframe_records": records})

    assert answer.status == 422
    assert "the column 'when' holds times with a zone" in answer.message


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("when", "yesterday", "the column 'when' holds what is no ISO time"),
        ("when", 3, "the column 'when' holds int; expected datetime"),
        ("when", "2024-05-01T00:00:00+02:00", "Mixed timezones"),
        ("city", 3, "the column 'city' holds int; expected string"),
        ("amount", "3", "the input 'amount' holds strings; expected float64"),
    ],
)
def test_word_or_time_that_does_not_fit_is_a_422(
    served: Callable[[str], Served], column: str, value: Any, words: str
) -> None:
    model = served("python")
    records = json.loads(json.dumps(model.trained.bodies["dataframe_records"]))
    records["dataframe_records"][0][column] = value

    answer = model.ask(records)

    assert answer.status == 422
    assert words in answer.message


def test_what_the_model_raises_is_a_500_that_names_it_and_spoils_nothing(
    served: Callable[[str], Served],
) -> None:
    model = served("python")
    bad = json.loads(json.dumps(model.right))
    bad["dataframe_split"]["data"][0][0] = 666

    answers = model.worker.ask(model.right, bad, model.right)

    assert [answer.status for answer in answers] == [200, 500, 200]
    assert answers[1].json["error_code"] == "INTERNAL_ERROR"
    assert "RuntimeError: six hundred and sixty-six" in answers[1].message


def test_answer_of_words_is_no_array(served: Callable[[str], Served]) -> None:
    asked = Ask(served("python").right, headers={"Accept": "application/x-npy"})

    answer = served("python").ask(asked)

    assert answer.status == 406
    assert answer.headers["content-type"] == "application/json"


def test_body_of_ten_megabytes_is_answered_or_refused(served: Callable[[str], Served]) -> None:
    row = served("torch_exported").trained.rows[:1].tolist()[0]
    rows = [row] * (10_000_000 // len(json.dumps(row)))

    right = served("torch_exported").ask({"inputs": rows})
    wrong = served("torch_exported").ask({"inputs": [*rows, row[1:]]})

    assert (right.status, len(right.json["predictions"])) == (200, len(rows))
    assert wrong.status == 422
    assert len(wrong.body) < 1000


# What TorchServe's worker does once its own modules are imported: load, then answer.
ALONE = """
import json, sys
sys.path.insert(0, sys.argv[1])
document = json.load(open(sys.argv[1] + "/modelswitch.json"))
from pathlib import Path
from importlib import import_module
from modelswitch_protocol import Request
model = import_module(sys.argv[2]).handle.model
model.load(Path(sys.argv[1]), document)
[output] = model.predict([model.decode(Request(document["golden"]["request"]))])
print("torch" in sys.modules, isinstance(output, Exception))
"""


@pytest.mark.parametrize("name", ["onnx", "sklearn_columns", "sklearn_probabilities"])
def test_a_worker_of_what_is_no_torch_model_never_imports_torch(
    served: Callable[[str], Served], tmp_path: Path, name: str
) -> None:
    built = served(name).built
    folder = extracted(built.path, tmp_path / "extracted")
    handler = f"modelswitch_{built.document.recipe.handler}"

    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder), handler], capture_output=True, text=True
    )

    assert done.stdout == "False False\n", done.stderr
