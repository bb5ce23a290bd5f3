"""Engines and pictures on three real servers: digits as they were logged, and as a graph."""

from __future__ import annotations

import base64
import importlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from modelswitch.line import Stage
from modelswitch.refs import ModelRef
from tests.stack.deployment import Deployment

DIGITS, SEEN = "engined-digits", "seen-digits"
TRAINING = Path(__file__).parents[2] / "training"
# Ink from 0 to 16, which the network wants, of grey values from 0 to 255.
RECIPE = {
    "engine": "onnx",
    "input": "image",
    "batch_size": 4,
    "image": {
        "size": 8,
        "crop": 8,
        "mean": [0.0],
        "std": [0.0625],
        "output": "probabilities",
        "top": 2,
        "labels": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    },
}


def training() -> ModuleType:
    """training/digits.py; what it and its neighbour set for MLflow is undone."""
    before = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TRAINING))
        module = importlib.import_module("digits")
    os.environ.clear()
    os.environ.update(before)
    for name in ("digits", "script"):
        sys.modules.pop(name, None)
    return module


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The network of training/digits.py, trained for an epoch, as MLflow saves it; its data."""
    import mlflow
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    script = training()
    torch.manual_seed(0)
    data, net = script.load_data(), script.DigitNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(2):
        script.train_epoch(net, optimizer, data)
    folder = tmp_path_factory.mktemp("digits") / "model"
    mlflow.pytorch.save_model(
        net.eval(),
        str(folder),
        signature=ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 1, 8, 8))]),
            outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 10))]),
        ),
        input_example=data.held_out_images[:3].numpy(),
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
    )
    return folder, data


@pytest.fixture
def registered(deployment: Deployment, digits: tuple[Path, Any]) -> Iterator[Any]:
    folder, data = digits
    for name in (DIGITS, SEEN):
        deployment.switch.register(str(folder), name)
    yield data
    for name in (DIGITS, SEEN):
        event = deployment.switch.ledger.head(name)
        if event is not None and event.head.line.slots:
            deployment.switch.retire(ModelRef(name), "seen")


def test_an_engine_is_flipped_beside_the_other_and_rolled_back(
    deployment: Deployment, registered: Any
) -> None:
    ref = ModelRef(DIGITS, version="1")
    body = {"inputs": registered.held_out_images[:4].tolist()}

    def answers() -> dict[str, Any]:
        found = {server: deployment.ask(server, DIGITS, json=body) for server in deployment.urls}
        assert {answer.status_code for answer in found.values()} == {200}
        digests = {answer.headers["x-archive-digest"] for answer in found.values()}
        assert len(digests) == 1
        predictions = [answer.json()["predictions"] for answer in found.values()]
        return {"digest": digests.pop(), "predictions": np.array(predictions)}

    deployment.switch.promote(ref, Stage.PRODUCTION, "as it was logged")
    eager = answers()
    deployment.switch.promote(ref, Stage.PRODUCTION, "faster", recipe={"engine": "onnx"})
    graph = answers()
    deployment.switch.rollback(DIGITS, "not faster enough", quarantines=False)
    back = answers()

    assert eager["digest"] == back["digest"] != graph["digest"]
    np.testing.assert_allclose(graph["predictions"], eager["predictions"], atol=1e-4)
    np.testing.assert_array_equal(back["predictions"], eager["predictions"])


def test_pictures_are_posted_as_they_are(
    deployment: Deployment, registered: Any, tmp_path: Path
) -> None:
    from PIL import Image

    ref = ModelRef(SEEN, version="1")
    deployment.switch.promote(ref, Stage.PRODUCTION, "pictures", recipe=RECIPE)
    server = next(iter(deployment.urls))
    ink = registered.held_out_images[0, 0].numpy()
    wanted = RECIPE["image"]["labels"][int(registered.held_out_digits[0])]  # type: ignore[index]
    picture = Image.fromarray(np.rint(ink * 255 / 16).astype(np.uint8))

    files = {}
    for kind in ("JPEG", "PNG"):
        out = io.BytesIO()
        picture.save(out, format=kind, **({"quality": 98} if kind == "JPEG" else {}))
        files[kind] = out.getvalue()

    def best(**request: Any) -> str:
        answer = deployment.ask(server, SEEN, json=None, **request)
        assert answer.status_code == 200, answer.text
        [[first, second]] = answer.json()["predictions"]
        assert 1 >= first["score"] >= second["score"] >= 0
        assert answer.headers["x-model-version"] == f"{SEEN}@1"
        return str(first["label"])

    for kind, content in files.items():
        headers = {"Content-Type": f"image/{kind.lower()}"}
        assert best(content=content, headers=headers) == wanted
        encoded = json.dumps({"inputs": [{"b64": base64.b64encode(content).decode()}]})
        assert best(content=encoded, headers={"Content-Type": "application/json"}) == wanted
    assert best(files={"data": ("a.png", files["PNG"], "image/png")}) == wanted

    cut = deployment.ask(
        server, SEEN, json=None, content=files["PNG"][:60], headers={"Content-Type": "image/png"}
    )
    assert cut.status_code == 422
    assert "picture" in cut.json()["message"]


def test_engines_are_tried_by_a_command_line(
    deployment: Deployment, registered: Any, tmp_path: Path
) -> None:
    data = tmp_path / "held.npz"
    np.savez(data, x=registered.held_out_images.numpy(), y=registered.held_out_digits.numpy())

    said = deployment.run("engines", f"{DIGITS}@1", "--engines", "onnx", "--data", str(data))

    assert said.exit == 0, said
    found = said.document["data"]
    assert [one["engine"] for one in found["engines"]] == ["eager", "onnx"]
    assert all(one["may_serve"] and one["accuracy"] > 0.8 for one in found["engines"])
    assert found["fastest"] in ("eager", "onnx")
    assert deployment.run("engines", f"{DIGITS}@1", "--engines", "magic").exit == 2
