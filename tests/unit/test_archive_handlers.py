"""The handlers as a worker runs them: flat files, TorchServe's own Context, no ModelSwitch."""

from __future__ import annotations

import importlib
import json
import logging
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modelswitch import handlers
from modelswitch.archive.document import Document, Identity, Signature
from modelswitch.archive.golden import Golden
from modelswitch.archive.recipe import Recipe
from modelswitch.archive.writer import write

ts_context = pytest.importorskip("ts.context")

TENSOR = {"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 3]}}
PROBE = {"X-ModelSwitch-Probe": "1"}


class Doubling(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Adding(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b.sum(1)


class Failing(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert bool((x < 100).all()), "a hundred is too much"
        return x


class Averaging(torch.nn.Module):
    """Its output has no row for each row of its input: requests cannot share a pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(0)


class Centering(torch.nn.Module):
    """As many rows as its input, each changed by the others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


@pytest.fixture(autouse=True)
def flat_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(handlers.__file__).parent))


@pytest.fixture
def extracted(tmp_path: Path) -> Callable[..., Path]:
    """Build an archive around a module and extract it, as TorchServe would."""

    def extract(
        module: torch.nn.Module,
        *,
        inputs: list[dict[str, Any]] | None = None,
        export: tuple[torch.Tensor, ...] | None = None,
        golden: Golden | None = None,
        batch_size: int = 1,
    ) -> Path:
        weights = tmp_path / "weights"
        if export is not None:
            free = tuple({0: torch.export.Dim.AUTO} for _ in export)
            program = torch.export.export(module, export, dynamic_shapes=free)
            torch.export.save(program, weights.with_suffix(".pt2"))
            entry, weights = "model.pt2", weights.with_suffix(".pt2")
        else:
            torch.jit.script(module).save(str(weights))
            entry = "model.pt"
        draft = Document(
            schema=1,
            identity=Identity(model="digits", version="3", run_id=None, source="models:/m-1"),
            signature=Signature(inputs=inputs or [TENSOR]),
            recipe=Recipe(handler="torch", batch_size=batch_size),
            golden=golden,
            entries={},
        )
        written = write(tmp_path / "out", draft, {entry: weights, **handlers.files("torch")})
        with zipfile.ZipFile(written.path) as file:
            file.extractall(tmp_path / "model")
        return tmp_path / "model"

    return extract


class Worker:
    """Calls the handler as ts.service does and keeps what it said of each request."""

    def __init__(self, folder: Path) -> None:
        torch_handler = importlib.import_module("modelswitch_torch")
        protocol = importlib.import_module("modelswitch_protocol")
        self.handle = protocol.Worker(torch_handler.TorchModel())
        self.context = ts_context.Context("digits", str(folder), {}, 1, None, "0.12.0")
        self.handle(None, self.context)
        self.digest = self.handle.digest

    def ask(self, *bodies: Any, headers: dict[str, str] | None = None) -> list[tuple[int, Any]]:
        rows = [{"body": body} for body in bodies]
        self.context.request_processor = [
            ts_context.RequestProcessor(
                {"body": {"content-type": "application/json"}, **(headers or {})}
            )
            for _ in bodies
        ]
        answers = self.handle(rows, self.context)
        return [
            (self.context.get_response_status(i)[0], json.loads(answer))
            for i, answer in enumerate(answers)
        ]

    def headers(self, index: int = 0) -> dict[str, str]:
        return dict(self.context.get_response_headers(index))


@pytest.fixture
def doubling(extracted: Callable[..., Path]) -> Worker:
    return Worker(extracted(Doubling()))


RIGHT = {"inputs": [[1, 2, 3]]}
DOUBLED = {"predictions": [[2.0, 4.0, 6.0]]}


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [[1, 2, 3]]},
        {"instances": [[1, 2, 3]]},
        {"inputs": [[1.0, 2, 3]], "params": {}},
        {"dataframe_split": {"columns": ["a", "b", "c"], "data": [[1, 2, 3]]}},
        {"dataframe_split": {"data": [[1, 2, 3]], "index": [7]}},
        {"dataframe_records": [{"a": 1, "b": 2, "c": 3}]},
        {"dataframe_records": [{"x": [1, 2, 3]}]},
    ],
)
def test_each_of_mlflows_forms_is_answered(doubling: Worker, body: Any) -> None:
    assert doubling.ask(body) == [(200, DOUBLED)]


def test_body_is_read_from_bytes_and_text_too(doubling: Worker) -> None:
    text = json.dumps(RIGHT)

    assert doubling.ask(text, text.encode(), bytearray(text.encode())) == [(200, DOUBLED)] * 3


def test_every_answer_names_version_and_archive(doubling: Worker) -> None:
    doubling.ask(RIGHT, {"inputs": "wrong"})

    for index in (0, 1):
        assert doubling.headers(index) == {
            "X-Model-Version": "digits@3",
            "X-Archive-Digest": doubling.digest,
            "content-type": "application/json",
        }


def test_probe_is_answered_with_the_digest_and_no_inference(doubling: Worker) -> None:
    answers = doubling.ask("", headers={"x-modelswitch-probe": "1"})

    assert answers == [(200, {"model": "digits@3", "digest": doubling.digest})]
    assert doubling.headers()["X-Archive-Digest"] == doubling.digest


def test_correlation_id_is_logged_and_echoed(
    doubling: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "modelswitch"):
        doubling.ask(RIGHT, headers={"X-Correlation-Id": "abc-1"})

    assert doubling.headers()["X-Correlation-Id"] == "abc-1"
    assert "correlation_id=abc-1 digits@3 200" in caplog.text


@pytest.mark.parametrize("value", ["", "a\r\nSet-Cookie: b", "é", "x" * 129])
def test_correlation_id_that_cannot_stand_in_a_header_is_dropped(
    doubling: Worker, value: str
) -> None:
    doubling.ask(RIGHT, headers={"X-Correlation-Id": value})

    assert "X-Correlation-Id" not in doubling.headers()


NAN = float("nan")

WRONG = [
    ("", 400, "no JSON object"),
    (None, 400, "no JSON object"),
    (b"", 400, "no JSON object"),
    (b"{nonsense", 400, "not JSON"),
    (b"\xff\xfe", 400, "not JSON"),
    (b'{"inputs": [[1, 2, NaN]]}', 400, "NaN is not JSON"),
    (b"[" * 100_000, 400, "not JSON"),
    ([1, 2, 3], 400, "not a JSON object but list"),
    ("3", 400, "not a JSON object but int"),
    ({}, 400, "must hold one of inputs"),
    ({"data": [[1, 2, 3]]}, 400, "must hold one of inputs"),
    ({"inputs": [[1, 2, 3]], "instances": []}, 400, "must hold one of"),
    ({"inputs": [[1, 2, 3]], "extra": 1}, 400, "beside 'inputs'"),
    ({"inputs": [[1, 2, 3]], "params": {"t": 1}}, 422, "takes no params"),
    ({"inputs": [[1, 2]]}, 422, "has shape (1, 2); expected float32 of shape (-1, 3)"),
    ({"inputs": [1, 2, 3]}, 422, "has shape (3)"),
    ({"inputs": [[[1, 2, 3]]]}, 422, "has shape (1, 1, 3)"),
    ({"inputs": []}, 422, "has shape (0)"),
    ({"inputs": 5}, 422, "has shape ()"),
    ({"inputs": None}, 422, "has shape ()"),
    ({"inputs": [[1, 2, 3], [4, 5]]}, 422, "different lengths"),
    ({"inputs": [[1, 2, [3]]]}, 422, "different lengths"),
    ({"inputs": [[1, 2, "3"]]}, 422, "holds strings"),
    ({"inputs": [[1, 2, None]]}, 422, "holds nulls"),
    ({"inputs": [[1, 2, {}]]}, 422, "holds nulls, objects"),
    ({"inputs": [[1, 2, NAN]]}, 422, "holds NaN"),
    ({"inputs": [[1, 2, 1e39]]}, 422, "too large"),
    ({"inputs": [[1, 2, 10**400]]}, 422, "too large"),
    ({"inputs": {"x": [[1, 2, 3]]}}, 422, "without a name"),
    ({"instances": [{"x": [1, 2, 3]}]}, 422, "without a name"),
    ({"dataframe_split": [1]}, 422, "not an object with data"),
    ({"dataframe_split": {"data": 3}}, 422, "not a list of rows"),
    ({"dataframe_split": {"columns": ["a"], "data": [[1, 2, 3]]}}, 422, "not as long"),
    ({"dataframe_split": {"columns": ["a", "b", "a"], "data": [[1, 2, 3]]}}, 422, "same name"),
    ({"dataframe_split": {"columns": 5, "data": [[1, 2, 3]]}}, 422, "not as long"),
    ({"dataframe_records": {"a": 1}}, 422, "not a list of objects"),
    ({"dataframe_records": [{"a": 1}, {"b": 1}]}, 422, "same names"),
    ({"dataframe_records": [{"a": 1, "b": 2}]}, 422, "has shape (1, 2)"),
]


@pytest.mark.parametrize(("body", "status", "what"), WRONG)
def test_what_the_caller_got_wrong_is_a_4xx_that_says_what(
    doubling: Worker, body: Any, status: int, what: str
) -> None:
    [(got, answer)] = doubling.ask(body)

    assert got == status
    assert what in answer["message"]
    assert doubling.headers()["X-Archive-Digest"] == doubling.digest


def test_wrong_shape_is_told_to_programs_too(doubling: Worker) -> None:
    [(_, answer)] = doubling.ask({"inputs": [[1, 2]]})

    assert answer["error_code"] == "INVALID_PARAMETER_VALUE"
    assert answer["expected"] == {"dtype": "float32", "shape": [-1, 3]}
    assert answer["found"] == [1, 2]


def test_bad_requests_spoil_nothing_for_the_others_of_their_batch(doubling: Worker) -> None:
    bodies = [RIGHT, *(body for body, _, _ in WRONG), RIGHT]

    answers = doubling.ask(*bodies)

    assert answers[0] == answers[-1] == (200, DOUBLED)
    assert [status for status, _ in answers[1:-1]] == [status for _, status, _ in WRONG]


ASKED = Golden(kind="close", request={"inputs": [[1, 2, 3]]}, expected={})


def test_batch_is_answered_in_one_pass_and_taken_apart_again(
    extracted: Callable[..., Path],
) -> None:
    worker = Worker(extracted(Doubling(), golden=ASKED, batch_size=8))
    passes: list[int] = []
    module = worker.handle.model.module
    worker.handle.model.module = lambda x: passes.append(len(x)) or module(x)

    answers = worker.ask({"inputs": [[1, 1, 1], [2, 2, 2]]}, {"inputs": [[3, 3, 3]]})

    assert passes == [3]
    assert [answer["predictions"] for _, answer in answers] == [
        [[2.0, 2.0, 2.0], [4.0, 4.0, 4.0]],
        [[6.0, 6.0, 6.0]],
    ]


def test_request_that_makes_the_model_raise_spoils_nothing_for_its_batch(
    extracted: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(extracted(Failing(), golden=ASKED, batch_size=8))
    assert worker.handle.model.joins

    answers = worker.ask({"inputs": [[1, 1, 1]]}, {"inputs": [[1, 1, 100]]})

    assert answers[0] == (200, {"predictions": [[1.0, 1.0, 1.0]]})
    assert answers[1][0] == 500
    assert answers[1][1]["error_code"] == "INTERNAL_ERROR"
    assert "a hundred is too much" in caplog.text


@pytest.mark.parametrize("module", [Averaging(), Centering()])
def test_model_that_mixes_its_rows_is_asked_one_by_one(
    extracted: Callable[..., Path], module: torch.nn.Module
) -> None:
    worker = Worker(extracted(module, golden=ASKED, batch_size=8))
    bodies = [{"inputs": [[1, 1, 1], [3, 3, 3]]}, {"inputs": [[9, 9, 9]]}]

    alone = [worker.ask(body)[0] for body in bodies]

    assert worker.ask(*bodies) == alone
    assert not worker.handle.model.joins


def test_batches_that_nothing_could_prove_are_answered_one_by_one(
    extracted: Callable[..., Path],
) -> None:
    assert not Worker(extracted(Doubling(), batch_size=8)).handle.model.joins


def test_output_that_is_no_json_spoils_nothing_for_its_batch(
    extracted: Callable[..., Path],
) -> None:
    worker = Worker(extracted(Doubling()))
    worker.handle.model.module = lambda x: x.to(torch.complex64) if x.sum() > 9 else x

    answers = worker.ask({"inputs": [[1, 1, 1]]}, {"inputs": [[9, 9, 9]]})

    assert [status for status, _ in answers] == [200, 500]
    assert worker.headers(1)["X-Archive-Digest"] == worker.digest


def test_number_that_json_does_not_have_is_answered_as_null(
    extracted: Callable[..., Path],
) -> None:
    worker = Worker(extracted(Doubling()))

    [(status, answer)] = worker.ask({"inputs": [[3e38, 1, -3e38]]})

    assert (status, answer) == (200, {"predictions": [[None, 2.0, None]]})


NAMED = [
    {"type": "tensor", "name": "a", "tensor-spec": {"dtype": "int64", "shape": [-1]}},
    {"type": "tensor", "name": "b", "tensor-spec": {"dtype": "int64", "shape": [-1, 2]}},
]


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": {"b": [[1, 2], [3, 4]], "a": [10, 20]}},
        {"instances": [{"a": 10, "b": [1, 2]}, {"a": 20, "b": [3, 4]}]},
        {"dataframe_records": [{"a": 10, "b": [1, 2]}, {"a": 20, "b": [3, 4]}]},
        {"dataframe_split": {"columns": ["b", "a"], "data": [[[1, 2], 10], [[3, 4], 20]]}},
    ],
)
def test_named_tensors_reach_the_model_in_the_signatures_order(
    extracted: Callable[..., Path], body: Any
) -> None:
    worker = Worker(extracted(Adding(), inputs=NAMED))

    assert worker.ask(body) == [(200, {"predictions": [13, 27]})]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({"inputs": {"a": [1]}}, "missing b; expected a (int64, (-1)), b (int64, (-1, 2))"),
        ({"inputs": [1, 2]}, "names no inputs"),
        ({"inputs": {"a": [1.5], "b": [[1, 2]]}}, "the input 'a' holds fractions"),
        ({"inputs": {"a": [1e19], "b": [[1, 2]]}}, "the input 'a' holds fractions"),
        (
            {"inputs": {"a": [2**63], "b": [[1, 2]]}},
            "the input 'a' holds integers out of its range",
        ),
        ({"inputs": {"a": [1], "b": [1, 2]}}, "the input 'b' has shape (2)"),
    ],
)
def test_named_tensor_that_does_not_fit_is_named(
    extracted: Callable[..., Path], body: Any, what: str
) -> None:
    worker = Worker(extracted(Adding(), inputs=NAMED))

    [(status, answer)] = worker.ask(body)

    assert status == 422
    assert what in answer["message"]


COLUMNS = [
    {"type": "double", "name": "a", "required": True},
    {"type": "long", "name": "b", "required": True},
]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["b", "x", "a"], "data": [[2, 9, 1.5], [4, 9, 3.5]]}},
        {"dataframe_records": [{"a": 1.5, "b": 2}, {"b": 4, "a": 3.5}]},
        {"inputs": {"a": [1.5, 3.5], "b": [2, 4]}},
        {"instances": [{"a": 1.5, "b": 2}, {"a": 3.5, "b": 4}]},
    ],
)
def test_columns_become_one_matrix_and_rows_are_answered(
    extracted: Callable[..., Path], body: Any
) -> None:
    worker = Worker(extracted(Doubling(), inputs=COLUMNS))

    rows = [{"0": 3.0, "1": 4.0}, {"0": 7.0, "1": 8.0}]
    assert worker.ask(body) == [(200, {"predictions": rows})]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({"dataframe_records": [{"a": 1.5}]}, "missing b"),
        ({"inputs": {"a": [1, 2], "b": [1]}}, "different lengths"),
        ({"inputs": {"a": ["x"], "b": [1]}}, "the input 'a' holds strings"),
        ({"inputs": {"a": [1], "b": [1.5]}}, "the input 'b' holds fractions"),
        ({"inputs": [[1]]}, "found 1 columns"),
        ({"inputs": "x"}, "found 1 columns"),
    ],
)
def test_columns_that_do_not_fit_are_a_422(
    extracted: Callable[..., Path], body: Any, what: str
) -> None:
    worker = Worker(extracted(Doubling(), inputs=COLUMNS))

    [(status, answer)] = worker.ask(body)

    assert status == 422
    assert what in answer["message"]


def test_exported_program_says_which_lengths_it_was_exported_with(
    extracted: Callable[..., Path],
) -> None:
    free = [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, -1]}}]
    worker = Worker(extracted(Doubling(), inputs=free, export=(torch.zeros(1, 3),)))

    [(status, answer)] = worker.ask({"inputs": [[1, 2, 3], [4, 5, 6]]})

    assert worker.ask(RIGHT) == [(200, DOUBLED)]
    assert status == 422
    assert "has shape (2, 3); expected float32 of shape (1, 3)" in answer["message"]


def test_exported_program_answers_batches(extracted: Callable[..., Path]) -> None:
    worker = Worker(extracted(Doubling(), export=(torch.zeros(2, 3),)))

    assert worker.ask(RIGHT, RIGHT, {"inputs": [[1]]})[:2] == [(200, DOUBLED)] * 2


def test_model_that_cannot_load_raises_its_true_cause(extracted: Callable[..., Path]) -> None:
    folder = extracted(Doubling())
    (folder / "model.pt").write_bytes(b"torn")

    with pytest.raises(RuntimeError, match="zip archive"):
        Worker(folder)


def test_golden_request_that_fails_at_load_fails_the_worker(
    extracted: Callable[..., Path],
) -> None:
    request = {"inputs": [[1, 1, 100]]}
    folder = extracted(Failing(), golden=Golden(kind="exact", request=request, expected={}))

    with pytest.raises(Exception, match="a hundred is too much"):
        Worker(folder)


def test_signature_of_strings_is_refused_at_load(extracted: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="only tensors and number columns"):
        Worker(extracted(Doubling(), inputs=[{"type": "string", "name": "a"}]))


def test_threads_are_those_of_the_recipe(doubling: Worker) -> None:
    assert torch.get_num_threads() == 1


def test_handlers_import_nothing_of_ours_and_shadow_nothing(tmp_path: Path) -> None:
    for name, text in handlers.files("torch").items():
        (tmp_path / name).write_bytes(text)
    code = (
        "import sys; sys.modules['modelswitch'] = None; import modelswitch_torch as m; "
        "print(sorted(n for n in sys.modules if n.startswith('modelswitch')), callable(m.handle))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == (
        "['modelswitch', 'modelswitch_arrays', 'modelswitch_forms', 'modelswitch_protocol', "
        "'modelswitch_tensors', 'modelswitch_torch'] True"
    )
    assert not {Path(n).stem for n in handlers.files("torch")} & set(sys.stdlib_module_names)


def test_release_changes_with_any_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    before = handlers.release("torch")
    files = handlers.files("torch")
    monkeypatch.setattr(handlers, "files", lambda *_: files | {"modelswitch_torch.py": b"# new"})

    assert handlers.release("torch") != before


def test_placeholder_answers_503(flat_modules: None) -> None:
    placeholder = importlib.import_module("modelswitch_placeholder")
    context = ts_context.Context("digits", ".", {}, 1, None, "0.12.0")
    context.request_processor = [ts_context.RequestProcessor({})]

    assert placeholder.handle(None, context) is None
    assert len(placeholder.handle([{"body": b""}], context)) == 1
    assert context.get_response_status(0)[0] == 503
