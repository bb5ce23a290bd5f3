"""training/digits.py against a real MLflow server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from modelswitch.registry import Registry

SCRIPT = Path(__file__).parents[2] / "training" / "digits.py"


def train(mlflow_url: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        env=os.environ | {"MLFLOW_TRACKING_URI": mlflow_url},
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=200,
    )


def test_a_run_registers_a_version_that_predicts_any_batch(mlflow_url: str, tmp_path: Path) -> None:
    sample = tmp_path / "sample.json"

    ran = train(mlflow_url, tmp_path, "--name", "trained", "--sample", str(sample))

    assert ran.returncode == 0, ran.stderr
    assert "next: modelswitch promote trained@1 --to staging" in ran.stdout

    import numpy as np
    from mlflow import MlflowClient, pyfunc

    registry = Registry(mlflow_url)
    run_id = registry.get_version("trained", "1").run_id
    client = MlflowClient(mlflow_url)
    run = client.get_run(run_id)
    assert run.data.metrics["held_out_accuracy"] >= 0.97
    assert len(client.get_metric_history(run_id, "loss")) == 8
    assert run.data.params["seed"] == "0"
    assert "confusion_matrix.png" in {file.path for file in client.list_artifacts(run_id)}

    folder = registry.download("trained", "1", tmp_path / "into")
    assert (folder / "data" / "model.pt2").is_file()
    model = pyfunc.load_model(str(folder))
    digit = np.array(json.loads(sample.read_text())["inputs"], dtype=np.float32)
    for batch in (1, 5):
        answer = model.predict(np.repeat(digit, batch, axis=0))
        assert answer.shape == (batch, 10)
        np.testing.assert_allclose(answer.sum(axis=1), 1, rtol=1e-5)

    registered_again = registry.register(f"runs:/{run_id}/model", "trained")
    assert (registered_again.version, registered_again.is_new) == ("1", False)


def test_without_mlflow_it_says_so(tmp_path: Path) -> None:
    ran = train("http://127.0.0.1:9", tmp_path, "--epochs", "1")

    assert ran.returncode == 1
    assert "http://127.0.0.1:9" in ran.stderr
    assert "next: modelswitch up" in ran.stderr
    assert "Traceback" not in ran.stderr
