"""Where the files of a model to be registered are: a run, MLflow's model store, or a folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from modelswitch.effects import effect
from modelswitch.errors import NotFound, UsageError
from modelswitch.registry.door import Door, patience


@dataclass(frozen=True, slots=True)
class Source:
    """As MLflow wants it told: `uri` is models:/m-…, or a folder in a run's artifacts."""

    uri: str
    run_id: str | None = None
    model_id: str | None = None


def find_source(door: Door, uri: str) -> Source | Path:
    """What `uri` names, proven to hold a model; a local folder as its path.

    Raises UsageError for a URI of another kind, NotFound where there is no MLmodel file.
    """
    parts = urlsplit(uri)
    if parts.scheme == "runs":
        return _in_run(door, uri)
    if parts.scheme == "models":
        return _in_store(door, uri)
    if parts.scheme in ("", "file"):
        folder = Path(unquote(parts.path) if parts.scheme else uri)
        if (folder / "MLmodel").is_file():
            return folder
        raise NotFound(
            f"there is no model in the folder {folder}: it has no file MLmodel",
            next="save one there: mlflow.<flavor>.save_model(model, folder, input_example=…)",
        )
    raise UsageError(
        f"{uri!r} cannot be registered: it is neither a logged model nor a folder",
        next="give runs:/RUN_ID/model, models:/m-… or the path of a folder with an MLmodel file",
    )


def upload(door: Door, folder: Path, name: str) -> Source:
    """Store a folder as a logged model: MLflow takes no local path as a version's source."""

    def send(client: Any) -> Source:
        there = client.get_experiment_by_name(name)
        experiment = there.experiment_id if there else client.create_experiment(name)
        logged = client.create_logged_model(experiment, name="model")
        client.log_model_artifacts(logged.model_id, str(folder))
        client.finalize_logged_model(logged.model_id, "READY")
        return Source(f"models:/{logged.model_id}", model_id=logged.model_id)

    with effect("registry.upload", model=name, folder=str(folder)), patience():
        return door.call(send)


def folder_digest(folder: Path) -> str:
    """SHA-256 in hex over the paths and contents of all files in a folder."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as content:
            inside = hashlib.file_digest(content, "sha256").hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{inside}\n".encode())
    return digest.hexdigest()


def has_mlmodel(files: Any) -> bool:
    """Whether a listing of MLflow's holds a model."""
    return any(Path(file.path).name == "MLmodel" for file in files)


def _in_run(door: Door, uri: str) -> Source:
    """The logged model of that name in that run (the last, if several), else its artifacts."""
    run_id, _, name = urlsplit(uri).path.strip("/").partition("/")
    if not run_id or not name:
        raise UsageError(f"{uri!r} names no model in a run", next="runs:/RUN_ID/model")
    run = door.call(lambda client: client.get_run(run_id))
    outputs = sorted(run.outputs.model_outputs if run.outputs else [], key=lambda o: o.step)
    logged = door.call(lambda client: [client.get_logged_model(o.model_id) for o in outputs])
    if named := [model for model in logged if model.name == name]:
        return _in_store(door, f"models:/{named[-1].model_id}")
    if has_mlmodel(door.call(lambda client: client.list_artifacts(run_id, name))):
        return Source(f"{run.info.artifact_uri}/{name}", run_id=run_id)
    has = sorted({model.name for model in logged})
    log_one = f"mlflow.<flavor>.log_model(model, name={name!r}, input_example=…)"
    raise NotFound(
        f"run {run_id} has no model {name!r}",
        next=f"it has runs:/{run_id}/{has[0]}" if has else f"log one in it: {log_one}",
    )


def _in_store(door: Door, uri: str) -> Source:
    model_id = urlsplit(uri).path.strip("/")
    if not model_id.startswith("m-"):
        raise UsageError(
            f"{uri!r} is a registered version already, not a logged model",
            next="give models:/m-… (shown on the run's page), or runs:/RUN_ID/model",
        )
    logged = door.call(lambda client: client.get_logged_model(model_id))
    if not has_mlmodel(door.call(lambda client: client.list_logged_model_artifacts(model_id))):
        raise NotFound(
            f"{uri} has no files: MLflow's artifact store holds no MLmodel for it",
            next="log the model again, and register that run",
        )
    return Source(f"models:/{model_id}", logged.source_run_id or None, model_id)
