"""torch: exported programs and TorchScript, told apart by what the file holds; state dicts of a
class that came along; pickled modules, for who allows them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from modelswitch.archive.flavors.parts import CODE, Parts, VersionFolder, release_of
from modelswitch.archive.needs import PYTHON
from modelswitch.archive.recipe import Recipe
from modelswitch.errors import ArchiveError

_LOG_PT2 = (
    "log it with mlflow.pytorch.log_model(model, name='model', input_example=x, "
    "signature=infer_signature(x, y)), x a numpy array: MLflow 3 then writes a .pt2"
)
_LOG_SCRIPT = (
    "or torch.jit.script(model) with serialization_format='pickle', which MLflow writes as "
    "TorchScript"
)
# A graph brings its own code: of all that was written down, only libraries of operators matter.
_NEEDS = ("torch", "torchvision", "torchaudio")


def fits(version: VersionFolder) -> bool:
    return version.flavor("pytorch") is not None and not version.signature.params


def find(version: VersionFolder, recipe: Recipe) -> Parts:
    """Raises ArchiveError for what is no torch model, or is one that cannot be served."""
    if recipe.module is not None:
        return _state_dict(version, recipe.module)
    flavor = version.flavor("pytorch")
    if flavor is None:
        raise ArchiveError(
            f"{version.name} is no torch model, which its recipe's handler asks for",
            next='handler = "auto" in the recipe takes the one that fits; for a state dict, '
            'module = "file:Class" names what it belongs to',
        )
    folder = version.inside(str(flavor.get("model_data", "data")))
    exported, saved = folder / "model.pt2", folder / "model.pth"
    refuse_no_numbers(version)
    refuse_params(version)
    torch_version = release_of(str(flavor.get("pytorch_version", "")))
    pinned = {"torch": torch_version} if torch_version else {}
    if exported.is_file():
        return Parts("torch", {"model.pt2": exported}, _NEEDS, pinned)
    if not saved.is_file():
        raise version.missing(f"{folder.name} holds neither model.pt2 nor model.pth")
    if _is_torchscript(saved):
        return Parts("torch", {"model.pt": saved}, _NEEDS, pinned)
    refuse_pickle(version, recipe)
    pinned |= {"cloudpickle": ""} | _python(version)
    entries = {"model.pth": saved, **version.code}
    return Parts("torch", entries, None, pinned, runs_code=True)


def refuse_pickle(version: VersionFolder, recipe: Recipe) -> None:
    """Raise ArchiveError for a pickled module, whatever would load it, unless that is allowed."""
    flavor = version.flavor("pytorch")
    if flavor is None or recipe.allow_pickle:
        return
    saved = version.inside(str(flavor.get("model_data", "data"))) / "model.pth"
    if saved.is_file() and not _is_torchscript(saved):
        raise ArchiveError(
            f"{version.name} is a pickled module (data/model.pth): loading it runs whatever code "
            "is in it, so it is not served unless that is allowed",
            next=f"--allow-pickle, if you trust who logged it; or {_LOG_PT2}; {_LOG_SCRIPT}",
        )


def _state_dict(version: VersionFolder, module: str) -> Parts:
    """Weights among a pyfunc's artifacts, and the class they belong to in its code."""
    refuse_no_numbers(version)
    refuse_params(version)
    artifacts = version.pyfunc.get("artifacts") or {}
    named = "state_dict" if "state_dict" in artifacts else next(iter(artifacts), "")
    if not named or (len(artifacts) > 1 and named != "state_dict"):
        raise ArchiveError(
            f"{version.name}: its recipe names the class {module}, and no artifact is the state "
            "dict that it would load",
            next="mlflow.pyfunc.log_model(…, artifacts={'state_dict': 'net.pth'}, "
            "code_paths=['net.py'])",
        )
    weights = version.inside(str(artifacts[named]["path"]))
    if not weights.is_file():
        raise version.missing(f"there is no {weights.name}")
    file = module.partition(":")[0].replace(".", "/")
    if not {f"{CODE}/{file}.py", f"{CODE}/{file}/__init__.py"} & version.code.keys():
        raise ArchiveError(
            f"{version.name}: its recipe names the class {module}, and there is no {file}.py "
            "in the code that came with it",
            next=f"log it with code_paths=['{file}.py'], or correct `module` in the recipe",
        )
    return Parts("torch", {"state_dict.pth": weights, **version.code}, None, {"torch": ""}, True)


def _python(version: VersionFolder) -> dict[str, str]:
    """MLflow pickles classes of scripts by value, as the bytecode of one Python."""
    said = version.pyfunc.get("python_version")
    return {PYTHON: str(said)} if said else {}


def _is_torchscript(path: Path) -> bool:
    """TorchScript carries its code and constants beside its data; a pickle has data alone."""
    try:
        with zipfile.ZipFile(path) as file:
            tops = {name.partition("/")[2] for name in file.namelist()}
    except (OSError, zipfile.BadZipFile):
        return False
    return "constants.pkl" in tops and any(name.startswith("code/") for name in tops)


def refuse_no_numbers(version: VersionFolder) -> None:
    """Raise ArchiveError for inputs that no array of numbers can be."""
    try:
        unfit = [spec for spec in version.signature.inputs if not is_number(spec)]
    except (TypeError, KeyError) as error:
        raise version.torn(f"its signature cannot be read: {error}") from error
    if unfit:
        raise ArchiveError(
            f"{version.name}: its signature has inputs that are no numbers: {json.dumps(unfit[0])}",
            next="this handler takes tensors and number columns: encode the rest before the "
            'model, or handler = "pyfunc" in the recipe',
        )


def refuse_params(version: VersionFolder) -> None:
    """Raise ArchiveError where requests may bring params: only MLflow's own loader knows them."""
    if version.signature.params:
        raise ArchiveError(
            f"{version.name}: its signature has params, which only the pyfunc handler hands on",
            next='handler = "pyfunc" in the recipe, or log it without params in its signature',
        )


def is_number(spec: dict[str, Any]) -> bool:
    """What `modelswitch_tensors` reads: numeric tensors and columns."""
    if spec["type"] == "tensor":
        return str(spec["tensor-spec"]["dtype"]).startswith(("float", "int", "uint", "bool"))
    return spec["type"] in ("boolean", "integer", "long", "float", "double")
