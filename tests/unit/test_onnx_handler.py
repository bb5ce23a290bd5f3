"""MLflow's onnx flavor by our handler: the same answers, whatever form was asked in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.onnx
import numpy as np
import onnx
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

from modelswitch.archive.build import VersionSource, build, check
from modelswitch.archive.golden import Golden, compare
from modelswitch.archive.proof import extracted, run_trial
from modelswitch.archive.recipe import Recipe
from modelswitch.archive.reference import Reference
from modelswitch.errors import ArchiveError

NAMES = ("age", "sex", "bmi")


def linear() -> tuple[Any, Any, Any]:
    """A regression on three columns of the diabetes data: its graph, the rows, its weights."""
    data = load_diabetes(as_frame=True)
    rows = data.data[list(NAMES)].to_numpy(np.float32)
    trained = LinearRegression().fit(rows, data.target)
    weights = trained.coef_.astype(np.float32).reshape(3, 1)
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    graph = graph_of(
        nodes,
        [("x", TensorProto.FLOAT, ["rows", 3])],
        [("y", TensorProto.FLOAT, ["rows", 1])],
        w=weights,
        b=np.array([trained.intercept_], np.float32),
    )
    return graph, rows, trained


def graph_of(nodes: list[Any], inputs: list[Any], outputs: list[Any], **weights: Any) -> Any:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info(*spec) for spec in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def save(folder: Path, graph: Any, inputs: Schema, example: Any, **options: Any) -> Path:
    mlflow.onnx.save_model(
        graph,
        str(folder),
        signature=ModelSignature(inputs=inputs),
        input_example=example,
        pip_requirements=["onnxruntime", "onnx", "mlflow"],
        **options,
    )
    return folder


def tensor(name: str | None, dtype: Any, *shape: int) -> TensorSpec:
    return TensorSpec(np.dtype(dtype), shape, name)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import pandas as pd

    root = tmp_path_factory.mktemp("saved")
    graph, rows, _ = linear()
    frame = pd.DataFrame(rows[:3].astype(np.float64), columns=list(NAMES))
    columns = Schema([ColSpec("double", name) for name in NAMES])
    two = graph_of(
        [
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Mul", ["a", "b"], ["product"]),
        ],
        [("a", TensorProto.FLOAT, ["n", 2]), ("b", TensorProto.FLOAT, ["n", 2])],
        [("sum", TensorProto.FLOAT, ["n", 2]), ("product", TensorProto.FLOAT, ["n", 2])],
    )
    apart = graph_of(
        [helper.make_node("Sub", ["bmi", "age"], ["gap"])],
        [("bmi", TensorProto.DOUBLE, ["n"]), ("age", TensorProto.DOUBLE, ["n"])],
        [("gap", TensorProto.DOUBLE, ["n"])],
    )
    strings = graph_of(
        [helper.make_node("Identity", ["s"], ["t"])],
        [("s", TensorProto.STRING, ["n"])],
        [("t", TensorProto.STRING, ["n"])],
    )
    large = numpy_helper.from_array(np.ones((3, 900), np.float32), "w")
    outside = graph_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", TensorProto.FLOAT, ["n", 3])],
        [("y", TensorProto.FLOAT, ["n", 900])],
        w=numpy_helper.to_array(large),
    )
    bare = Schema([tensor(None, np.float32, -1, 3)])
    pair = {
        "b": np.array([[3, 4], [5, 6]], np.float32),
        "a": np.array([[1, 2], [7, 8]], np.float32),
    }
    return {
        "bare": save(root / "bare", graph, bare, rows[:3]),
        "named": save(
            root / "named", graph, Schema([tensor("x", np.float32, -1, 3)]), {"x": rows[:3]}
        ),
        "double": save(
            root / "double",
            graph,
            Schema([tensor(None, np.float64, -1, 3)]),
            rows[:3].astype(np.float64),
        ),
        # The signature's order is not the graph's.
        "two": save(
            root / "two",
            two,
            Schema([tensor("b", np.float32, -1, 2), tensor("a", np.float32, -1, 2)]),
            pair,
        ),
        "frame": save(root / "frame", graph, columns, frame),
        "apart": save(root / "apart", apart, columns, frame),
        "outside": save(root / "outside", outside, bare, rows[:3]),
        "strings": save(
            root / "strings",
            strings,
            Schema([tensor("s", np.str_, -1)]),
            {"s": np.array(["a", "b"])},
        ),
    }


def source(folder: Path) -> VersionSource:
    return VersionSource("linear", "1", "r1", "models:/m-1", folder)


ROWS = [[0.1, -0.2, 0.3], [0.0, 1.0, 2.0]]
RECORDS = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
SPLIT = {"columns": list(NAMES), "data": ROWS}
PAIR = {"a": [[1.0, 2.0]], "b": [[3.0, 5.0]]}
ASKED = [
    ("bare", {"inputs": ROWS}),
    ("bare", {"instances": ROWS}),
    ("bare", {"inputs": [[1, 2, 3]]}),
    ("named", {"inputs": {"x": ROWS}}),
    ("named", {"instances": [{"x": row} for row in ROWS]}),
    ("double", {"inputs": ROWS}),
    ("two", {"inputs": PAIR}),
    ("two", {"instances": [{"a": [1.0, 2.0], "b": [3.0, 5.0]}]}),
    ("two", {"inputs": {"a": [[1.0, 2.0]], "b": [[3.0, 5.0], [7.0, 8.0]]}}),
    ("frame", {"dataframe_split": SPLIT}),
    ("frame", {"dataframe_records": RECORDS}),
    ("frame", {"inputs": {name: [row[name] for row in RECORDS] for name in NAMES}}),
    ("frame", {"instances": RECORDS}),
    ("apart", {"dataframe_split": SPLIT}),
    ("apart", {"dataframe_records": RECORDS}),
    ("outside", {"inputs": ROWS}),
]


@pytest.fixture(scope="module")
def archives(saved: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("out")
    names = sorted({name for name, _ in ASKED})
    return {name: build(source(saved[name]), Recipe(batch_size=4), out) for name in names}


@pytest.fixture(scope="module")
def answers(archives: dict[str, Any]) -> dict[str, list[Any]]:
    """What the handler answers to each form, in a process of its own."""
    found = {}
    for name, built in archives.items():
        bodies = [body for asked, body in ASKED if asked == name]
        with extracted(built.path) as folder:
            said = run_trial(name, folder, {"ask": bodies}, built.document)
        assert said["errors"] == [None] * len(bodies)
        found[name] = said["answers"]
    return found


@pytest.mark.parametrize(("name", "body"), ASKED)
def test_answers_are_mlflows(
    saved: dict[str, Path], answers: dict[str, list[Any]], name: str, body: dict[str, Any]
) -> None:
    place = [asked for which, asked in ASKED if which == name].index(body)

    wanted = Reference(name, str(saved[name])).answer(body)

    golden = Golden(kind="close", request=body, expected=wanted)
    assert compare(golden, answers[name][place]) is None


def test_weights_beside_the_graph_come_along(archives: dict[str, Any]) -> None:
    built = archives["outside"]

    names = [name for name in built.document.entries if not name.startswith("modelswitch_")]

    assert len(names) == 2
    assert built.document.requirements == ("onnxruntime",)
    assert not built.document.runs_code


def test_weights_that_are_not_there_are_named(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved["outside"], tmp_path / "copied"))
    [weights] = [p for p in folder.iterdir() if p.stat().st_size == 3 * 900 * 4]
    weights.unlink()

    with pytest.raises(ArchiveError, match=weights.name):
        build(source(folder), Recipe(), tmp_path / "out")


def test_a_graph_of_strings_is_left_to_pyfunc(saved: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no numbers"):
        build(source(saved["strings"]), Recipe(handler="onnx"), tmp_path)

    assert build(source(saved["strings"]), Recipe(), tmp_path).document.recipe.handler == "pyfunc"


def test_no_graph_at_all_is_said(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved["bare"], tmp_path / "copied"))
    (folder / "model.onnx").write_bytes(b"not a graph at all")

    with pytest.raises(ArchiveError, match=r"model\.onnx is no ONNX graph"):
        build(source(folder), Recipe(), tmp_path / "out")


def test_two_builds_give_the_same_bytes(saved: dict[str, Path], archives: dict[str, Any]) -> None:
    assert check(archives["frame"].path, source(saved["frame"])) == []


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("bare", {"inputs": [[1.0, 2.0]]}),
        ("bare", {"inputs": [["a", "b", "c"]]}),
        ("two", {"inputs": {"a": [[1.0, 2.0]]}}),
        ("frame", {"dataframe_split": {"columns": ["age"], "data": [[1.0]]}}),
    ],
)
def test_what_does_not_fit_is_the_callers_to_mend(
    archives: dict[str, Any],
    loaded: Callable[[Any], Any],
    name: str,
    body: dict[str, Any],
) -> None:
    worker, protocol = loaded(archives[name])

    with pytest.raises(protocol.Invalid) as refused:
        _answer(worker.model, protocol.Request(body))

    assert refused.value.status in (400, 422)


def _answer(model: Any, request: Any) -> Any:
    question = model.decode(request)
    (output,) = model.predict([question])
    if isinstance(output, Exception):
        raise output
    return model.encode(question, output)


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    import importlib
    import zipfile

    from modelswitch import handlers

    monkeypatch.syspath_prepend(str(Path(handlers.__file__).parent))

    def load(built: Any) -> Any:
        with zipfile.ZipFile(built.path) as file:
            file.extractall(tmp_path / "model")
        module = importlib.import_module("modelswitch_onnx")
        protocol = importlib.import_module("modelswitch_protocol")
        worker = protocol.Worker(module.OnnxModel())
        worker.load(tmp_path / "model")
        return worker, protocol

    return load


def test_requests_of_a_batch_share_a_pass(
    archives: dict[str, Any], loaded: Callable[[Any], Any]
) -> None:
    worker, protocol = loaded(archives["two"])
    bodies = [{"inputs": {"a": [[i, 1.0]], "b": [[2.0, i]]}} for i in range(4)]
    questions = [worker.model.decode(protocol.Request(json.loads(json.dumps(b)))) for b in bodies]

    outputs = worker.model.predict(questions)

    assert worker.model.joins
    assert [o["sum"].tolist() for o in outputs] == [[[i + 2.0, i + 1.0]] for i in range(4)]


def test_a_request_that_is_broadcast_is_kept_out_of_the_others_pass(
    archives: dict[str, Any], loaded: Callable[[Any], Any]
) -> None:
    worker, protocol = loaded(archives["two"])
    uneven = {"a": [[1.0, 1.0]], "b": [[1.0, 1.0], [2.0, 2.0]]}
    other = {"a": [[5.0, 5.0], [6.0, 6.0]], "b": [[10.0, 10.0]]}
    questions = [worker.model.decode(protocol.Request({"inputs": i})) for i in (uneven, other)]

    outputs = worker.model.predict(questions)

    sums = [output["sum"][:, 0].tolist() for output in outputs]
    assert sums == [[2.0, 3.0], [15.0, 16.0]]


def test_the_handler_imports_no_torch(archives: dict[str, Any]) -> None:
    import subprocess
    import sys

    with extracted(archives["bare"].path) as folder:
        code = "import modelswitch_onnx, sys; print('torch' in sys.modules)"
        ran = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
        )

    assert ran.stdout.strip() == "False"
    assert onnx.__version__
