"""Whatever else MLflow can load: the archive carries the version's whole folder."""

from __future__ import annotations

from typing import Any

from modelswitch.archive.flavors.parts import Parts, VersionFolder, release_of
from modelswitch.archive.flavors.torch import refuse_pickle
from modelswitch.archive.needs import PYTHON
from modelswitch.archive.recipe import Recipe
from modelswitch.errors import ArchiveError

FOLDER = "model"

# Where a flavor writes the version of its own library, which must be the worker's, but for fixes.
_LIBRARIES = {
    "sklearn": ("scikit-learn", "sklearn_version"),
    "xgboost": ("xgboost", "xgb_version"),
    "lightgbm": ("lightgbm", "lgb_version"),
    "catboost": ("catboost", "catboost_version"),
    "statsmodels": ("statsmodels", "statsmodels_version"),
    "transformers": ("transformers", "transformers_version"),
    "pytorch": ("torch", "pytorch_version"),
    "onnx": ("onnx", "onnx_version"),
    "prophet": ("prophet", "prophet_version"),
    "spacy": ("spacy", "spacy_version"),
    "keras": ("keras", "keras_version"),
    "tensorflow": ("tensorflow", "tensorflow_version"),
}


def find(version: VersionFolder, recipe: Recipe) -> Parts:
    """Raises ArchiveError for what MLflow's pyfunc cannot load."""
    pyfunc = version.pyfunc
    if not pyfunc:
        raise ArchiveError(
            f"{version.name} has no python_function flavor, so MLflow itself could not serve it",
            next="log it with a flavor that has one, or as an mlflow.pyfunc.PythonModel",
        )
    if recipe.input == "image":
        raise ArchiveError(
            f'{version.name}: input = "image" is for models of tensors, torch or ONNX',
            next="leave it out of the recipe, and decode pictures in the model itself",
        )
    refuse_pickle(version, recipe)
    # It is MLflow that loads the folder, and pandas that most of its flavors are handed.
    pinned = {"mlflow-skinny": "", "pandas": ""} | _libraries(version)
    if pyfunc.get("python_model") and pyfunc.get("python_version"):
        # Classes are pickled by value, as the bytecode of one Python.
        pinned[PYTHON] = str(pyfunc["python_version"])
    entries = version.files(version.folder, FOLDER)
    return Parts("pyfunc", entries, None, pinned, runs_code=True)


def _libraries(version: VersionFolder) -> dict[str, str]:
    found: dict[str, str] = {}
    for flavor, (library, key) in _LIBRARIES.items():
        said: dict[str, Any] = version.flavor(flavor) or {}
        if said.get(key):
            found[library] = release_of(str(said[key]))
    return found
