"""A model version as MLflow wrote it into a folder: what it is, and whether it can be served."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelswitch.archive import flavors
from modelswitch.archive.document import Signature
from modelswitch.archive.flavors.parts import LOG_AGAIN, Parts, VersionFolder
from modelswitch.archive.recipe import Recipe
from modelswitch.errors import ArchiveError


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
    """What the folder holds: the parts of an archive, and what was written down about it."""

    parts: Parts
    signature: Signature
    example: Any | None
    requirements: tuple[str, ...]


def inspect(source: VersionSource, recipe: Recipe, *, golden: bool) -> Found:
    """Raises ArchiveError, with what to do, for a version that cannot be served as it is.

    `golden`: whether an input example is asked for.
    """
    mlmodel = _mlmodel(source)
    version = VersionFolder(str(source), source.folder, mlmodel, _signature(source, mlmodel))
    parts = flavors.find(version, recipe)
    example = _example(version)
    if example is None and golden:
        raise ArchiveError(
            f"{source} has no input example that MLflow can serve, so nothing could prove that "
            "a server answers it right",
            next="log the model with input_example=…, or build it with --no-golden",
        )
    requirements = source.folder / "requirements.txt"
    lines = requirements.read_text(encoding="utf-8").splitlines() if requirements.exists() else []
    return Found(parts, version.signature, example, tuple(lines))


def _mlmodel(source: VersionSource) -> dict[str, Any]:
    import yaml

    path = source.folder / "MLmodel"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArchiveError(
            f"{source} has no artifact: there is no MLmodel file at {source.source}",
            next=LOG_AGAIN,
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _torn(source, f"its MLmodel file cannot be read: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("flavors"), dict):
        raise _torn(source, "its MLmodel file names no flavors")
    return found


def _torn(source: VersionSource, what: str) -> ArchiveError:
    return ArchiveError(f"{source}: {what}", next=LOG_AGAIN)


def _signature(source: VersionSource, mlmodel: dict[str, Any]) -> Signature:
    found = mlmodel.get("signature")
    if not isinstance(found, dict) or not found.get("inputs"):
        raise ArchiveError(
            f"{source} has no signature, so no request to it could be checked",
            next="log the model with signature=mlflow.models.infer_signature(x, y)",
        )
    try:
        outputs, params = (
            json.loads(found[key]) if found.get(key) else None for key in ("outputs", "params")
        )
        return Signature(inputs=json.loads(found["inputs"]), outputs=outputs, params=params)
    except (ValueError, TypeError) as error:
        raise _torn(source, f"its signature cannot be read: {error}") from error


def _example(version: VersionFolder) -> Any | None:
    """The serving input example, a whole JSON body."""
    info = version.mlmodel.get("saved_input_example_info") or {}
    path = version.inside(str(info.get("serving_input_path", "serving_input_example.json")))
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise version.torn(f"its {path.name} is not JSON: {error}") from error
