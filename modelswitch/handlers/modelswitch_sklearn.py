"""The scikit-learn handler: NumPy straight to the pipeline, without pandas in the way.

A build has seen that it answers what MLflow answers with a DataFrame.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from modelswitch.handlers.modelswitch_arrays import ArrayModel
    from modelswitch.handlers.modelswitch_protocol import (
        Worker,
        import_from,
        limit_threads,
        refusal_of,
    )
    from modelswitch.handlers.modelswitch_tensors import Array
else:
    from modelswitch_arrays import ArrayModel
    from modelswitch_protocol import Worker, import_from, limit_threads, refusal_of
    from modelswitch_tensors import Array


_WITH_TORCH = "sklearn.externals.array_api_compat.torch"


class SklearnModel(ArrayModel):
    """Null is NaN, which some estimators take; the others' refusal is the caller's answer."""

    nullable = True

    def __init__(self) -> None:
        super().__init__()
        self.function: Any = None

    def load_engine(self, folder: Path, document: dict[str, Any]) -> None:
        import yaml

        flavors = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))["flavors"]
        import_from(folder)
        estimator = _loaded(folder, flavors["sklearn"])
        self.function = getattr(estimator, flavors["python_function"].get("predict_fn", "predict"))
        limit_threads(document["recipe"]["threads"])
        # Fitted on a DataFrame, asked with an array: the build has compared the two.
        warnings.filterwarnings("ignore", message="X does not have valid feature names")

    def run(self, arrays: tuple[Array, ...]) -> Any:
        try:
            found = self.function(arrays[0])
        except ValueError as error:
            raise refusal_of(error) or error from error
        if isinstance(found, list | tuple):  # probabilities of several outputs
            return [np.asarray(part) for part in found]
        return np.asarray(found)


def _loaded(folder: Path, flavor: dict[str, Any]) -> Any:
    path = folder / Path(flavor.get("pickled_model", "model.pkl")).name
    if flavor.get("serialization_format") == "skops":
        return _skops().load(path, trusted=flavor.get("skops_trusted_types"))
    import pickle

    # What cloudpickle writes, pickle reads. Its build says that this runs what is in the file.
    with path.open("rb") as file:
        return pickle.load(file)  # noqa: S301


def _skops() -> Any:
    """skops.io, without torch: it imports every package of scikit-learn, and one of them torch.

    That would make a worker three times as large, and its start as long.
    """
    apart = sys.modules.setdefault(_WITH_TORCH, None)  # type: ignore[arg-type]
    try:
        return importlib.import_module("skops.io")
    finally:
        if apart is None:
            del sys.modules[_WITH_TORCH]


handle = Worker(SklearnModel())
