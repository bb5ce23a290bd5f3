"""Models for the stack's tests, logged straight into MLflow: small, and known by their answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

MODEL = "tiny"
SCRIPTED = "script"
LIGHT = "light"  # as `tiny`, by ONNX Runtime: a worker without torch is there in half a second
REQUEST = {"inputs": [[1.0, 2.0]]}
RECIPE = {"response_timeout_s": 2}
_EXAMPLE = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)


def answer_of(version: str) -> list[list[float]]:
    """What `tiny` and `script` predict of REQUEST: each version multiplies by its own number."""
    return [[float(version), 2.0 * float(version)]]


def document_of(version: str, model: str = MODEL) -> dict[str, Any]:
    """The whole answer to REQUEST. MLflow names an ONNX graph's outputs."""
    found = answer_of(version)
    return {"predictions": {"y": found} if model == LIGHT else found}


def register_models(tracking_uri: str) -> None:
    with _run(tracking_uri):
        for version in (1, 2, 3):
            _log(MODEL, _times(version), scripted=False)
        _log(SCRIPTED, _times(1), scripted=True)


def register_light(tracking_uri: str) -> None:
    import mlflow
    from onnx import helper, numpy_helper

    shape = [None, 2]
    with _run(tracking_uri):
        for version in (1, 2, 3):
            factor = numpy_helper.from_array(np.float32(version), "factor")
            graph = helper.make_graph(
                [helper.make_node("Mul", ["x", "factor"], ["y"])],
                "times",
                [helper.make_tensor_value_info("x", 1, shape)],
                [helper.make_tensor_value_info("y", 1, shape)],
                [factor],
            )
            opset = [helper.make_opsetid("", 18)]
            logged = mlflow.onnx.log_model(
                helper.make_model(graph, opset_imports=opset, ir_version=9),
                name=LIGHT,
                signature=_signature(),
                input_example=_EXAMPLE,
                registered_model_name=LIGHT,
            )
            _set_recipe(LIGHT, logged.registered_model_version)


@contextmanager
def _run(tracking_uri: str) -> Iterator[None]:
    import mlflow

    before = dict(os.environ)  # where MLflow keeps what it is told, for whatever comes after
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment("tests")
    with mlflow.start_run():
        yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def _times(factor: int) -> Any:
    import torch

    class Times(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("factor", torch.tensor(float(factor)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.factor

    return Times().eval()


def _log(name: str, module: Any, *, scripted: bool) -> None:
    import mlflow
    import torch

    logged = mlflow.pytorch.log_model(
        torch.jit.script(module) if scripted else module,
        name=name,
        signature=_signature(),
        input_example=_EXAMPLE,
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
        registered_model_name=name,
        **({"serialization_format": "pickle"} if scripted else {}),
    )
    _set_recipe(name, logged.registered_model_version)


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    spec = Schema([TensorSpec(np.dtype(np.float32), (-1, 2))])
    return ModelSignature(inputs=spec, outputs=spec)


def _set_recipe(name: str, version: Any) -> None:
    import mlflow

    mlflow.MlflowClient().set_model_version_tag(
        name, str(version), "modelswitch.recipe", json.dumps(RECIPE)
    )
