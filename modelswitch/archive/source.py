"""A model version as MLflow wrote it into a folder: what it is, and whether it can be served.

Reads MLmodel and the files it names; loads nothing and unpickles nothing.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelswitch.archive.document import Signature
from modelswitch.errors import ArchiveError

_LOG_AGAIN = "log the model again and register that run's model; this version can go"
_LOG_PT2 = (
    "log it with mlflow.pytorch.log_model(model, name='model', input_example=x, "
    "signature=infer_signature(x, y)), x a numpy array: MLflow 3 then writes a .pt2"
)
_LOG_SCRIPT = (
    "or torch.jit.script(model) with serialization_format='pickle', which MLflow writes as "
    "TorchScript"
)


@dataclass(frozen=True, slots=True)
class VersionSource:
    """One version, downloaded: `folder` holds MLmodel. `source` is the registry's own URI."""

    model: str
    version: str
    run_id: str | None
    source: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"


@dataclass(frozen=True, slots=True)
class Found:
    """What the folder holds: the weights, the name they take in the archive, what it asks for."""

    weights: Path
    entry: str
    signature: Signature
    example: Any | None
    requirements: tuple[str, ...]
    torch_version: str


def inspect(source: VersionSource, *, golden: bool) -> Found:
    """Raises ArchiveError, with what to do, for a version that cannot be served as it is.

    `golden`: whether an input example is asked for.
    """
    mlmodel = _mlmodel(source)
    weights, entry, torch_version = _weights(source, mlmodel)
    signature = _signature(source, mlmodel)
    example = _example(source, mlmodel)
    if example is None and golden:
        raise ArchiveError(
            f"{source} has no input example that MLflow can serve, so nothing could prove that "
            "a server answers it right",
            next="log the model with input_example=…, or build it with --no-golden",
        )
    requirements = source.folder / "requirements.txt"
    lines = requirements.read_text(encoding="utf-8").splitlines() if requirements.exists() else []
    return Found(weights, entry, signature, example, tuple(lines), torch_version)


def _mlmodel(source: VersionSource) -> dict[str, Any]:
    import yaml

    path = source.folder / "MLmodel"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArchiveError(
            f"{source} has no artifact: there is no MLmodel file at {source.source}",
            next=_LOG_AGAIN,
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _torn(source, f"its MLmodel file cannot be read: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("flavors"), dict):
        raise _torn(source, "its MLmodel file names no flavors")
    return found


def _torn(source: VersionSource, what: str) -> ArchiveError:
    return ArchiveError(f"{source}: {what}", next=_LOG_AGAIN)


def _inside(source: VersionSource, name: str) -> Path:
    """A path that MLmodel names, which must not lead out of the version's folder."""
    path = source.folder / name
    if not path.resolve().is_relative_to(source.folder.resolve()):
        raise _torn(source, f"its MLmodel file names {name}, which lies outside of it")
    return path


def _weights(source: VersionSource, mlmodel: dict[str, Any]) -> tuple[Path, str, str]:
    """The model's file, told from its content: MLflow names TorchScript and pickles alike."""
    flavor = mlmodel["flavors"].get("pytorch")
    if not isinstance(flavor, dict):
        names = ", ".join(name for name in mlmodel["flavors"] if name != "python_function")
        raise ArchiveError(
            f"{source} is of the flavor {names or 'python_function'}, which is not served yet: "
            "so far torch models are, as .pt2 or TorchScript",
            next=_LOG_PT2,
        )
    folder = _inside(source, str(flavor.get("model_data", "data")))
    torch_version = str(flavor.get("pytorch_version", ""))
    exported, saved = folder / "model.pt2", folder / "model.pth"
    if exported.is_file():
        return exported, "model.pt2", torch_version
    if not saved.is_file():
        raise ArchiveError(
            f"{source} has no artifact: {folder.name} holds neither model.pt2 nor model.pth",
            next=_LOG_AGAIN,
        )
    if not _is_torchscript(saved):
        raise ArchiveError(
            f"{source} is a pickled module (data/model.pth): loading it runs whatever code is "
            "in it, and needs the class it was made of; it is not served",
            next=f"{_LOG_PT2}; {_LOG_SCRIPT}",
        )
    return saved, "model.pt", torch_version


def _is_torchscript(path: Path) -> bool:
    """TorchScript carries its code and constants beside its data; a pickle has data alone."""
    try:
        with zipfile.ZipFile(path) as file:
            tops = {name.partition("/")[2] for name in file.namelist()}
    except (OSError, zipfile.BadZipFile):
        return False
    return "constants.pkl" in tops and any(name.startswith("code/") for name in tops)


def _signature(source: VersionSource, mlmodel: dict[str, Any]) -> Signature:
    found = mlmodel.get("signature")
    if not isinstance(found, dict) or not found.get("inputs"):
        raise ArchiveError(
            f"{source} has no signature, so no request to it could be checked",
            next="log the model with signature=mlflow.models.infer_signature(x, y)",
        )
    if found.get("params"):
        raise ArchiveError(
            f"{source}: its signature has params, which torch models are not given yet",
            next="log the model without params in its signature",
        )
    try:
        outputs = json.loads(found["outputs"]) if found.get("outputs") else None
        signature = Signature(inputs=json.loads(found["inputs"]), outputs=outputs)
        unfit = [spec for spec in signature.inputs if not _is_number(spec)]
    except (ValueError, TypeError, KeyError) as error:
        raise _torn(source, f"its signature cannot be read: {error}") from error
    if unfit:
        raise ArchiveError(
            f"{source}: its signature has inputs that are no numbers: {json.dumps(unfit[0])}",
            next="torch models take tensors and number columns: encode the rest before the model",
        )
    return signature


def _is_number(spec: dict[str, Any]) -> bool:
    """What `modelswitch_tensors` reads: numeric tensors and columns."""
    if spec["type"] == "tensor":
        return str(spec["tensor-spec"]["dtype"]).startswith(("float", "int", "uint", "bool"))
    return spec["type"] in ("boolean", "integer", "long", "float", "double")


def _example(source: VersionSource, mlmodel: dict[str, Any]) -> Any | None:
    """The serving input example, a whole JSON body."""
    info = mlmodel.get("saved_input_example_info") or {}
    path = _inside(source, str(info.get("serving_input_path", "serving_input_example.json")))
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise _torn(source, f"its {path.name} is not JSON: {error}") from error
