"""The models that are served side by side, logged and promoted as anybody would."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.stack import RunningStack

if TYPE_CHECKING:
    import numpy as np

    Pixels = np.ndarray[Any, np.dtype[np.uint8]]

SIDE = 224
PICTURES = 16
_SEED = 0
_QUALITY = 90
_SCALE = 300.0
# As torchvision's weights for ImageNet want them
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def crops() -> list[Pixels]:
    """Squares cut out of the two photographs that scikit-learn ships: (224, 224, 3) each."""
    import numpy as np
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    places = np.random.default_rng(_SEED)
    found = []
    for number in range(PICTURES):
        photograph = photographs[number % len(photographs)]
        height, width, _ = photograph.shape
        top, left = places.integers(height - SIDE), places.integers(width - SIDE)
        found.append(photograph[top : top + SIDE, left : left + SIDE])
    return found


def pictures() -> tuple[bytes, ...]:
    """The crops as JPEG."""
    from PIL import Image

    found = []
    for crop in crops():
        file = io.BytesIO()
        Image.fromarray(crop).save(file, "JPEG", quality=_QUALITY)
        found.append(file.getvalue())
    return tuple(found)


def mobilenet() -> tuple[Any, Any]:
    """MobileNetV3-small, and a batch for it, float32 of (16, 3, 224, 224).

    Its weights are random, from a fixed seed: they are not to be had without the network, and
    what a pass costs does not hang on them. Its normalisation is set by the pictures and its
    last layer is scaled, or all classes would score the same.
    """
    import numpy as np
    import torch
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(_SEED)
    net = mobilenet_v3_small(weights=None)
    pixels = np.stack(crops()).astype(np.float32) / 255
    mean, std = np.asarray(_MEAN, np.float32), np.asarray(_STD, np.float32)
    batch = torch.from_numpy((pixels - mean) / std).permute(0, 3, 1, 2).contiguous()
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None  # the plain mean of what is seen
    with torch.no_grad():
        net.train()(batch)
        net.classifier[-1].weight.mul_(_SCALE)
    return net.eval(), batch


def log_mobilenet(name: str, tracking_uri: str) -> None:
    import numpy as np

    mlflow = _mlflow(tracking_uri, name)
    net, batch = mobilenet()
    types = mlflow.types
    signature = mlflow.models.ModelSignature(
        types.Schema([types.TensorSpec(np.dtype(np.float32), (-1, 3, SIDE, SIDE))]),
        types.Schema([types.TensorSpec(np.dtype(np.float32), (-1, 1000))]),
    )
    with mlflow.start_run():
        mlflow.pytorch.log_model(
            net,
            name="model",
            signature=signature,
            input_example=batch[:2].numpy(),
            pip_requirements=_pinned("mlflow", "torch", "torchvision"),
            registered_model_name=name,
        )


def log_table(name: str, tracking_uri: str, *, seed: int = 0) -> dict[str, Any]:
    """A pipeline on scikit-learn's breast cancer data; a request of one row with its names.

    Thirty columns of doubles in, whether the tumour is benign out.
    """
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    mlflow = _mlflow(tracking_uri, name)
    data = load_breast_cancer(as_frame=True)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=1 + seed, max_iter=500))
    pipeline.fit(data.data, data.target)
    with mlflow.start_run():
        mlflow.sklearn.log_model(
            pipeline,
            name="model",
            signature=mlflow.models.infer_signature(data.data, pipeline.predict(data.data)),
            input_example=data.data.head(3),
            pip_requirements=_pinned("mlflow", "scikit-learn"),
            registered_model_name=name,
        )
    row: dict[str, Any] = data.data.head(1).to_dict(orient="split", index=False)
    return {"dataframe_split": row}


def serve(
    stack: RunningStack, model: str, recipe: Mapping[str, Any] | None = None, *, workers: int = 1
) -> Path:
    """Promote its only version; the archive, in the model store of the server that loaded it."""
    words = ["promote", f"{model}@1", "--workers", str(workers), "--reason", "a benchmark"]
    if recipe is not None:
        file = stack.folder / f"{model}.json"
        file.write_text(json.dumps(recipe), encoding="utf-8")
        words += ["--recipe", str(file)]
    digest = str(stack.run(*words).data["digest"])
    (archive,) = stack.state.glob(f"servers/*/store/{digest.removeprefix('sha256:')}.mar")
    return archive


def _mlflow(tracking_uri: str, name: str) -> Any:
    os.environ |= {
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
    }
    import mlflow
    import mlflow.pytorch
    import mlflow.sklearn
    import mlflow.types

    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment(name)
    return mlflow


def _pinned(*packages: str) -> list[str]:
    # Inferring them would take MLflow ten seconds
    from importlib.metadata import version

    return [f"{name}=={version(name).partition('+')[0]}" for name in packages]


def write_pictures(folder: Path) -> list[Path]:
    """As files, for who reads files."""
    paths = []
    for number, content in enumerate(pictures()):
        path = folder / f"picture-{number:02}.jpg"
        path.write_bytes(content)
        paths.append(path)
    return paths
