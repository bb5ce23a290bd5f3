"""What a pyfunc is handed: the frame that MLflow would have made, or what its check lets by."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from modelswitch import handlers
from modelswitch.archive.build import VersionSource, build
from modelswitch.archive.golden import Golden, compare
from modelswitch.archive.recipe import Recipe
from modelswitch.archive.reference import Reference
from tests.worker import Ask, Worker, extracted

pytestmark = pytest.mark.filterwarnings("ignore")

VALUES: dict[str, list[Any]] = {
    "boolean": [True, False],
    "integer": [1, -2],
    "long": [2**40, 3],
    "float": [1.5, 2],
    "double": [1, None],
    "string": ["a", "é"],
    "datetime": ["2024-01-01T00:00:00", "1999-12-31T23:59:59"],
}
TABLES = [*([kind] for kind in VALUES), list(VALUES), ["integer", "double"], ["double", "double"]]


@pytest.fixture(scope="module")
def flat() -> Iterator[None]:
    folder = str(Path(handlers.__file__).parent)
    for name in [name for name in sys.modules if name.startswith("modelswitch_")]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


@pytest.mark.parametrize("form", ["split", "records", "inputs", "instances", "by place"])
@pytest.mark.parametrize("kinds", TABLES, ids=",".join)
def test_frame_is_mlflows_to_the_dtype(flat: None, kinds: list[str], form: str) -> None:
    from mlflow.models.utils import _enforce_schema
    from mlflow.pyfunc.scoring_server import infer_and_parse_data
    from mlflow.types import ColSpec, Schema
    from modelswitch_frames import Frame  # type: ignore[import-not-found]
    from modelswitch_protocol import Request  # type: ignore[import-not-found]

    has_names = form != "by place"
    names = [f"column {i}" for i in range(len(kinds))]
    pairs = zip(kinds, names, strict=True)
    schema = Schema([ColSpec(kind, name if has_names else None) for kind, name in pairs])
    rows = [[VALUES[kind][row] for kind in kinds] for row in (0, 1)]
    records = [dict(zip(names, row, strict=True)) for row in rows]
    body = {
        "split": {"dataframe_split": {"columns": names, "data": rows, "index": [7, 9]}},
        "records": {"dataframe_records": records},
        "inputs": {"inputs": {name: [row[name] for row in records] for name in names}},
        "instances": {"instances": records},
        "by place": {"dataframe_split": {"data": rows}},
    }[form]

    found, params = Frame.of(json.loads(schema.to_json())).read(Request(body))

    data = infer_and_parse_data(json.loads(json.dumps(body)), schema)
    expected = _enforce_schema(data, schema)
    pd.testing.assert_frame_equal(found, expected, check_column_type=False)
    assert params == {}


HINTED = """
import mlflow


class Shouts(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[str], params=None) -> list[str]:
        return [text.upper() for text in model_input]


mlflow.models.set_model(Shouts())
"""
NESTED = """
import mlflow


class Sums(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        rows = zip(model_input["cells"], model_input["box"])
        return [sum(cells) * box["factor"] for cells, box in rows]


mlflow.models.set_model(Sums())
"""


def worker_of(folder: Path) -> tuple[Worker, Reference]:
    source = VersionSource("model", "1", "r1", "models:/m-1", folder / "saved")
    built = build(source, Recipe(), folder / "built")
    return Worker(extracted(built.path, folder / "x")), Reference("m", str(folder / "saved"))


def test_signature_of_type_hints_is_left_to_mlflow(tmp_path: Path) -> None:
    import mlflow.pyfunc

    (tmp_path / "shouts.py").write_text(HINTED)
    mlflow.pyfunc.save_model(
        str(tmp_path / "saved"),
        python_model=str(tmp_path / "shouts.py"),
        input_example=["a", "b"],
        pip_requirements=[],
    )
    worker, _ = worker_of(tmp_path)

    assert worker.predictions({"inputs": ["x", "yz"]}) == ["X", "YZ"]
    for wrong in ({"inputs": [1]}, {"inputs": 3}, {"instances": ["a"]}):
        [answer] = worker.ask(wrong)
        assert answer.status == 422, answer.body
    [answer] = worker.ask(Ask(b"\x93NUMPY", "application/x-npy"))
    assert answer.status == 415


def test_signature_of_lists_and_objects_is_left_to_mlflow(tmp_path: Path) -> None:
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import Array, DataType, Object, Property

    (tmp_path / "sums.py").write_text(NESTED)
    box = Object([Property("factor", DataType.double)])
    schema = Schema([ColSpec(Array(DataType.double), "cells"), ColSpec(box, "box")])
    rows = [{"cells": [1.0, 2.0], "box": {"factor": 2.0}}, {"cells": [], "box": {"factor": 1.0}}]
    mlflow.pyfunc.save_model(
        str(tmp_path / "saved"),
        python_model=str(tmp_path / "sums.py"),
        signature=ModelSignature(inputs=schema),
        input_example=pd.DataFrame(rows),
        pip_requirements=[],
    )
    worker, reference = worker_of(tmp_path)

    body = {"dataframe_records": rows}
    [answer] = worker.ask(body)
    golden = Golden(kind="close", request=body, expected=reference.answer(body))
    assert compare(golden, answer.json) is None
    for wrong in ([{"cells": ["a"], "box": {"factor": 1.0}}], [{"cells": [1.0]}], [{"box": 3}]):
        [answer] = worker.ask({"dataframe_records": wrong})
        assert answer.status == 422, answer.body
        assert len(answer.message) <= 1000
