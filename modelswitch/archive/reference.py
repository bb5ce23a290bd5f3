"""What is right: MLflow's own predict on the version as it was logged, and golden answers by it.

MLflow and torch are imported here, when an answer is asked for.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from modelswitch.archive.golden import Golden, kind_of, outline
from modelswitch.archive.recipe import Recipe
from modelswitch.archive.tolerances import tolerance_of
from modelswitch.errors import ArchiveError
from modelswitch.garbage import uncollected

# Sent with every proof, on every server: larger examples are cut to one row.
GOLDEN_BYTES = 1 << 20


class Answers(Protocol):
    def answer(self, request: Any) -> Any:
        """The whole JSON body that answers a whole JSON body."""


class Reference:
    """The version as `mlflow models serve` would answer for it; loads the model."""

    def __init__(self, name: str, folder: str) -> None:
        self.name = name
        self._folder = folder
        self._paths: list[str] = []
        with as_archive_error(name, "MLflow cannot load it"), uncollected():
            from mlflow import pyfunc

            with self._own_modules():
                self._model = pyfunc.load_model(folder)
            self._schema = self._model.metadata.get_input_schema()

    @property
    def raw(self) -> Any:
        """What MLflow loaded: a torch module, an ONNX session."""
        return self._model.get_raw_model()

    @property
    def input_dtype(self) -> Any:
        """numpy's type of the model's one tensor, float32 for a table."""
        import numpy as np

        specs = self._schema.inputs
        return specs[0].type if self._schema.is_tensor_spec() else np.dtype(np.float32)

    def data(self, request: Any) -> Any:
        """A request's array, dict of arrays or DataFrame, as MLflow reads it."""
        from mlflow.pyfunc.scoring_server import infer_and_parse_data

        body = {key: value for key, value in request.items() if key != "params"}
        # Of a signature that came of type hints MLflow reads nothing before predict does.
        if self._model.metadata._is_signature_from_type_hint() and "inputs" in body:
            return body["inputs"]
        with as_archive_error(self.name, "MLflow cannot read its input example"):
            return infer_and_parse_data(body, self._schema)

    def predict(self, data: Any, params: Any = None) -> Any:
        what = "MLflow's own predict cannot answer its input example"
        with as_archive_error(self.name, what), self._own_modules():
            return self._model.predict(data, params)

    def answer(self, request: Any) -> Any:
        from mlflow.pyfunc.scoring_server import predictions_to_json

        found = self.predict(self.data(request), request.get("params"))
        with as_archive_error(self.name, "what MLflow's own predict answers is no JSON"):
            answer = io.StringIO()
            predictions_to_json(found, answer)
        # What a worker answers is strict JSON: null stands for NaN and the infinities.
        return json.loads(answer.getvalue(), parse_constant=lambda _: None)

    @contextmanager
    def _own_modules(self) -> Iterator[None]:
        """A version's own modules are imported anew: another version's have the same names."""
        before = list(sys.path)
        sys.path[:0] = self._paths
        try:
            yield
        finally:
            self._paths = [path for path in sys.path if path not in before]
            sys.path[:] = before
            inside = f"{Path(self._folder).resolve()}{os.sep}"
            for name, module in list(sys.modules.items()):
                if str(getattr(module, "__file__", None) or "").startswith(inside):
                    del sys.modules[name]


def golden(name: str, reference: Answers, example: Any, recipe: Recipe) -> Golden:
    """The example, or its first row if that is too large, answered twice.

    Raises ArchiveError where one row of it is too large.
    """
    for request in (example, first_row(example)):
        if _is_large(request):
            continue
        first = reference.answer(request)
        if not _is_large(first):
            break
    else:
        raise ArchiveError(
            f"{name}: one row of its input example, or the answer to it, is more than "
            f"{GOLDEN_BYTES:,} bytes of JSON, too much to be sent with every proof",
            next="log a smaller input example, or build with --no-golden",
        )
    allowed = tolerance_of(recipe, first)
    kind = kind_of(first, reference.answer(request), topk=allowed.k)
    return Golden(
        kind=kind,
        request=request,
        expected=outline(first) if kind == "schema" else first,
        rtol=allowed.rtol,
        atol=allowed.atol,
        k=allowed.k if kind == "topk" else None,
    )


def _is_large(body: Any) -> bool:
    return len(json.dumps(body)) > GOLDEN_BYTES


def first_row(value: Any) -> Any:
    if isinstance(value, list):
        return value[:1]
    if isinstance(value, dict):  # a body, dataframe_split, or named inputs
        return {key: item if key == "columns" else first_row(item) for key, item in value.items()}
    return value


@contextmanager
def as_archive_error(name: str, what: str) -> Iterator[None]:
    """Whatever a model or MLflow raises, as an ArchiveError; their talk is not heard."""
    talk = logging.getLogger("mlflow")
    level = talk.level
    try:
        with warnings.catch_warnings():
            # Of versions that differ and formats that age: it is `needs` that judges these.
            warnings.simplefilter("ignore")
            talk.setLevel(logging.ERROR)
            yield
    except ImportError as error:
        raise ArchiveError(
            f"{name}: {what}: {error}", next='pip install "modelswitch[local]"'
        ) from error
    except Exception as error:  # a model may raise anything
        raise ArchiveError(
            f"{name}: {what}: {type(error).__name__}: {error}",
            next="try it with mlflow.models.predict, mend and log it again; "
            "or build with --no-golden",
        ) from error
    finally:
        talk.setLevel(level)
