"""Models that no script of ours has made: logged with plain MLflow, served, or refused in time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stack.deployment import Deployment, wait_for

# What somebody who knows MLflow and nothing of ModelSwitch would write
TRAIN = """
import mlflow
import numpy as np
import pandas as pd
from mlflow.models import infer_signature

from wording import length_of


class Lengths(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["text"].map(length_of) * model_input["weight"]


rows = pd.DataFrame({"text": ["a", "bb"], "weight": [1.0, 2.5]})
with mlflow.start_run():
    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=Lengths(),
        code_paths=["wording.py"],
        input_example=rows,
        signature=infer_signature(rows, np.array([1.0, 5.0])),
        pip_requirements=REQUIREMENTS,
    )
print(info.model_uri)
"""
WORDING = "def length_of(text):\n    return len(text)\n"

Log = Callable[..., str]


@pytest.fixture
def log(deployment: Deployment, tmp_path: Path) -> Log:
    def run(*requirements: str) -> str:
        (tmp_path / "wording.py").write_text(WORDING)
        (tmp_path / "train.py").write_text(TRAIN.replace("REQUIREMENTS", repr(list(requirements))))
        done = subprocess.run(
            [sys.executable, "train.py"],
            cwd=tmp_path,
            env={**os.environ, "MLFLOW_TRACKING_URI": deployment.tracking_uri},
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return next(line for line in done.stdout.splitlines() if line.startswith("models:/"))

    return run


def test_python_model_with_code_of_its_own_goes_from_register_to_an_answer(
    deployment: Deployment, log: Log
) -> None:
    said = deployment.run("register", log("pandas"), "--name", "lengths")
    assert said.exit == 0, said
    said = deployment.run("promote", "lengths@1", "--reason", "anything goes")
    assert said.exit == 0, said

    rows = [{"text": "four", "weight": 0.5}, {"text": "", "weight": 3}]
    for server in deployment.urls:
        answer = deployment.ask(server, "lengths", json={"dataframe_records": rows})
        assert answer.json() == {"predictions": [{"0": 2.0}, {"0": 0.0}]}
        assert answer.headers["x-model-version"] == "lengths@1"
        wrong = deployment.ask(server, "lengths", json={"dataframe_records": [{"text": 3}]})
        assert wrong.status_code == 422
        assert "missing weight; expected text (string), weight" in wrong.json()["message"]

    [archive] = deployment.run("show", "lengths@1").document["data"]["archives"]
    assert archive["runs_code"] is True
    assert archive["recipe"]["handler"] == "pyfunc"
    assert deployment.run("retire", "lengths", "--reason", "seen").exit == 0


def test_package_that_no_worker_has_is_named_before_anything_is_loaded(
    deployment: Deployment, log: Log
) -> None:
    said = deployment.run("register", log("pandas", "no-such-thing==1.2.3"), "--name", "wanting")
    assert said.exit == 0, said
    rows = len(deployment.switch.history())

    said = deployment.run("promote", "wanting@1", "--reason", "it wants something")

    assert (said.exit, said.code) == (1, "archive"), said
    assert 'it has no no-such-thing: pip install "no-such-thing==1.2.*"' in said.message
    assert len(deployment.switch.history()) == rows
    wait_for(lambda: not deployment.switch.diff())
