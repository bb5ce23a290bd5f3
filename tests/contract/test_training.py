"""The scripts of training/ against a real MLflow server; what they log is loaded and asked."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from modelswitch import handlers
from modelswitch.archive.pictures import resolved
from modelswitch.archive.recipe import Recipe
from modelswitch.archive.serving import parse_serving
from modelswitch.registry import Registry

SCRIPTS = Path(__file__).parents[2] / "training"


def train(
    script: str, mlflow_url: str, folder: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS / script), *options],
        env=os.environ | {"MLFLOW_TRACKING_URI": mlflow_url},
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=200,
    )


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """training/pictures.py as a module."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("pictures")


def test_a_run_registers_a_version_that_predicts_any_batch(mlflow_url: str, tmp_path: Path) -> None:
    sample = tmp_path / "sample.json"

    ran = train("digits.py", mlflow_url, tmp_path, "--name", "trained", "--sample", str(sample))

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


def test_named_columns_are_a_scikit_learn_pipeline(mlflow_url: str, tmp_path: Path) -> None:
    sample = tmp_path / "tumour.json"

    ran = train("tumours.py", mlflow_url, tmp_path, "--sample", str(sample))

    assert ran.returncode == 0, ran.stderr
    assert "next: modelswitch promote tumours@1 --to staging" in ran.stdout

    import pandas as pd
    from mlflow import MlflowClient, pyfunc

    registry = Registry(mlflow_url)
    run = MlflowClient(mlflow_url).get_run(registry.get_version("tumours", "1").run_id)
    assert run.data.metrics["held_out_roc_auc"] >= 0.99

    model = pyfunc.load_model(str(registry.download("tumours", "1", tmp_path / "into")))
    assert {"sklearn", "python_function"} == set(model.metadata.flavors)
    names = model.metadata.get_input_schema().input_names()
    assert len(names) == 30
    assert names[0] == "mean radius"
    tumours = pd.DataFrame(**json.loads(sample.read_text())["dataframe_split"])
    assert f"sample: {', '.join(model.predict(tumours))}, in" in ran.stdout
    assert set(model.predict(tumours)) == {"malignant", "benign"}
    other_order = tumours[tumours.columns[::-1]]
    assert list(model.predict(other_order)) == list(model.predict(tumours))


def test_the_onnx_graph_takes_any_batch_in_plain_units(mlflow_url: str, tmp_path: Path) -> None:
    sample = tmp_path / "patient.json"

    ran = train("diabetes.py", mlflow_url, tmp_path, "--sample", str(sample))

    assert ran.returncode == 0, ran.stderr
    assert "next: modelswitch promote diabetes@1 --to staging" in ran.stdout

    import numpy as np
    from mlflow import MlflowClient, pyfunc

    registry = Registry(mlflow_url)
    run = MlflowClient(mlflow_url).get_run(registry.get_version("diabetes", "1").run_id)
    assert run.data.metrics["held_out_r2"] >= 0.35  # a straight line's

    model = pyfunc.load_model(str(registry.download("diabetes", "1", tmp_path / "into")))
    assert {"onnx", "python_function"} == set(model.metadata.flavors)
    patient = np.array(json.loads(sample.read_text())["inputs"], dtype=np.float32)
    alone = model.predict(patient)["progression"]
    assert alone.shape == (1, 1)
    assert 25 < alone[0, 0] < 346
    five = model.predict(np.repeat(patient, 5, axis=0))["progression"]
    np.testing.assert_allclose(five, np.repeat(alone, 5, axis=0), rtol=1e-5)


def test_the_picture_model_is_registered_with_how_it_is_served(
    mlflow_url: str, tmp_path: Path, pictures: ModuleType
) -> None:
    sample = tmp_path / "picture.png"

    ran = train("pictures.py", mlflow_url, tmp_path, "--sample", str(sample))

    assert ran.returncode == 0, ran.stderr
    *_, run_line, next_line = ran.stdout.splitlines()
    run_id = run_line.removeprefix("run: ")
    register = f"modelswitch register runs:/{run_id}/model --name pictures"
    assert next_line == f"next: {register} --serving training/pictures.toml"

    from mlflow import MlflowClient, pyfunc

    client = MlflowClient(mlflow_url)
    assert client.get_run(run_id).data.metrics["held_out_accuracy"] >= 0.94
    assert "pictures.toml" in {file.path for file in client.list_artifacts(run_id)}

    registry = Registry(mlflow_url)
    registered = registry.register(f"runs:/{run_id}/model", "pictures")
    model = pyfunc.load_model(str(registry.download("pictures", "1", tmp_path / "into")))
    scores = model.predict(pictures.read(sample.read_bytes())[None])
    assert registered.is_new
    assert f"sample: a {pictures.LABELS[scores.argmax()]}, in" in ran.stdout


def test_the_picture_model_learns_from_what_a_worker_reads(
    pictures: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    from sklearn.datasets import load_digits

    monkeypatch.syspath_prepend(str(Path(handlers.__file__).parent))
    protocol = importlib.import_module("modelswitch_protocol")
    images = importlib.import_module("modelswitch_images")
    text = pictures.SERVING.read_text(encoding="utf-8")
    serving = parse_serving(text, source=pictures.SERVING.name)
    recipe = Recipe.model_validate(serving.recipe)
    assert recipe.image
    worker = images.Images(resolved(recipe.image, "pictures@1").model_dump(mode="json"))
    digit = load_digits().images[3]
    png = io.BytesIO()
    pictures.draw(digit, np.random.default_rng(0)).save(png, "PNG")

    request = protocol.Request(png.getvalue(), content_type="image/png")
    seen = worker.normalised(worker.read(request))

    assert seen.shape == (1, 3, 32, 32)
    np.testing.assert_allclose(seen[0], pictures.read(png.getvalue()), atol=1e-5)


def test_no_script_needs_modelswitch() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in SCRIPTS.glob("*.py")}

    assert {"digits.py", "tumours.py", "diabetes.py", "pictures.py"} < texts.keys()
    ours = re.compile(r"^\s*(import|from) modelswitch", re.MULTILINE)
    assert [name for name, text in texts.items() if ours.search(text)] == []


def test_without_mlflow_it_says_so(tmp_path: Path) -> None:
    ran = train("digits.py", "http://127.0.0.1:9", tmp_path, "--epochs", "1")

    assert ran.returncode == 1
    assert "http://127.0.0.1:9" in ran.stderr
    assert "next: modelswitch up" in ran.stderr
    assert "Traceback" not in ran.stderr
