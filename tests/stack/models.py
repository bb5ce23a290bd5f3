"""Models for the stack's tests, logged straight into MLflow: small, and known by their answers."""

from __future__ import annotations

import json
import os
from typing import Any

MODEL = "tiny"
SCRIPTED = "script"
REQUEST = {"inputs": [[1.0, 2.0]]}
RECIPE = {"response_timeout_s": 2}


def answer_of(version: str) -> list[list[float]]:
    """What `tiny` and `script` say to REQUEST: each version multiplies by its own number."""
    return [[float(version), 2.0 * float(version)]]


def register_models(tracking_uri: str) -> None:
    import mlflow

    before = dict(os.environ)  # where MLflow keeps what it is told, for whatever comes after
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment("tests")
    with mlflow.start_run():
        for version in (1, 2, 3):
            _log(MODEL, _times(version), scripted=False)
        _log(SCRIPTED, _times(1), scripted=True)
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
    import numpy as np
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    spec = Schema([TensorSpec(np.dtype(np.float32), (-1, 2))])
    logged = mlflow.pytorch.log_model(
        torch.jit.script(module) if scripted else module,
        name=name,
        signature=ModelSignature(inputs=spec, outputs=spec),
        input_example=np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32),
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
        registered_model_name=name,
        **({"serialization_format": "pickle"} if scripted else {}),
    )
    mlflow.MlflowClient().set_model_version_tag(
        name, str(logged.registered_model_version), "modelswitch.recipe", json.dumps(RECIPE)
    )
