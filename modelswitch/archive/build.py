"""Build an archive from a model version, and check that one can be built again.

MLflow and torch are imported here, when a golden answer is asked for: it is MLflow's own predict
that says what is right. Nothing here talks to the registry or the store.
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelswitch import handlers
from modelswitch.archive.document import Document, Identity
from modelswitch.archive.golden import Golden, compare, kind_of, outline
from modelswitch.archive.needs import lacking, used_by
from modelswitch.archive.recipe import Recipe
from modelswitch.archive.source import Found, VersionSource, inspect
from modelswitch.archive.verify import verify
from modelswitch.archive.writer import write
from modelswitch.effects import effect
from modelswitch.errors import ArchiveError
from modelswitch.garbage import uncollected
from modelswitch.line import label_of
from modelswitch.refs import check_name
from modelswitch.reports import Environment

# Sent with every proof, on every server: larger examples are cut to one row.
GOLDEN_BYTES = 1 << 20

__all__ = ["Built", "VersionSource", "build", "check"]


@dataclass(frozen=True, slots=True)
class Built:
    """An archive as it was built: `label` is TorchServe's version, `path` where it stands."""

    path: Path
    digest: str
    label: str
    size_bytes: int
    document: Document


def build(
    source: VersionSource,
    recipe: Recipe,
    out_dir: Path,
    *,
    golden: bool = True,
    environments: Iterable[Environment] = (),
) -> Built:
    """Build `source` by `recipe` into `out_dir/<64 hex>.mar`, from where the store takes it.

    `environments` are those of the workers that shall serve it. Raises ArchiveError, with what
    to do, for a version that cannot be served, proved or carried by those workers.
    """
    found = inspect(source, golden=golden)
    requirements = _requirements(found, recipe)
    _check_environments(source, requirements, environments)
    with effect("archive.golden", model=source.model, version=source.version):
        answer = _golden(source, found, recipe) if golden else None
    return _build(source, found, recipe, requirements, answer, out_dir)


def check(existing: Path, source: VersionSource) -> list[str]:
    """Build `source` again by the recipe of the archive at `existing`; what differs, if anything.

    The recorded golden answer is used again, so that bytes can agree across machines, once
    MLflow has confirmed it within its tolerance.
    """
    document = verify(existing)
    recipe, recorded = document.recipe, document.golden
    if recipe.handler_release != handlers.release(recipe.handler):
        return [
            f"the {recipe.handler} handler is of release {handlers.release(recipe.handler)} "
            f"here, the archive's is {recipe.handler_release}"
        ]
    found = inspect(source, golden=False)
    differences = []
    if recorded is not None:
        answer = _predictor(source)(recorded.request)
        if why := compare(recorded, answer):
            differences.append(f"MLflow answers the golden request otherwise: {why}")
    with tempfile.TemporaryDirectory(prefix="modelswitch-") as folder:
        again = _build(source, found, recipe, _requirements(found, recipe), recorded, Path(folder))
        if again.document != document:
            differences += _between(document, again.document)
        elif not _same_bytes(again.path, existing):
            differences.append("the documents agree and the bytes do not")
    return differences


def _build(
    source: VersionSource,
    found: Found,
    recipe: Recipe,
    requirements: tuple[str, ...],
    golden: Golden | None,
    out_dir: Path,
) -> Built:
    if recipe.handler_release != handlers.release(recipe.handler):
        raise ArchiveError(
            f"{source}: its recipe asks for release {recipe.handler_release} of the "
            f"{recipe.handler} handler, this installation has {handlers.release(recipe.handler)}",
            next="leave handler_release out of the recipe to take what is installed",
        )
    draft = Document(
        schema=1,
        identity=Identity(
            model=check_name(source.model),
            version=source.version,
            run_id=source.run_id,
            source=source.source,
        ),
        signature=found.signature,
        recipe=recipe,
        requirements=requirements,
        golden=golden,
        entries={},
    )
    entries: dict[str, Path | bytes] = {
        **handlers.files(recipe.handler),
        found.entry: found.weights,
    }
    written = write(out_dir, draft, entries, durable=False)
    label = label_of(source.version, written.digest)
    return Built(written.path, written.digest, label, written.size_bytes, written.document)


def _requirements(found: Found, recipe: Recipe) -> tuple[str, ...]:
    # A local part such as +cu130 says how torch was built, not what it understands.
    torch_version = found.torch_version.partition("+")[0]
    pinned = {"torch": torch_version} if torch_version else {}
    return used_by(recipe.handler, found.requirements, pinned)


def _check_environments(
    source: VersionSource, requirements: tuple[str, ...], environments: Iterable[Environment]
) -> None:
    for environment in environments:
        if lacks := lacking(requirements, environment):
            raise ArchiveError(
                f"{source} cannot run on a worker with Python {environment.python}: "
                + "; ".join(lacks),
                next="run that on the workers' environment, restart them, then build again",
            )


def _golden(source: VersionSource, found: Found, recipe: Recipe) -> Golden:
    """The example, or its first row if that is too large, answered twice by MLflow's predict."""
    predict = _predictor(source)
    for request in (found.example, _first_row(found.example)):
        if _is_large(request):
            continue
        first = predict(request)
        if not _is_large(first):
            break
    else:
        raise ArchiveError(
            f"{source}: one row of its input example, or the answer to it, is more than "
            f"{GOLDEN_BYTES:,} bytes of JSON, too much to be sent with every proof",
            next="log a smaller input example, or build with --no-golden",
        )
    kind = kind_of(first, predict(request), topk=recipe.topk)
    return Golden(
        kind=kind,
        request=request,
        expected=outline(first) if kind == "schema" else first,
        k=recipe.topk if kind == "topk" else None,
    )


def _is_large(body: Any) -> bool:
    return len(json.dumps(body)) > GOLDEN_BYTES


def _first_row(value: Any) -> Any:
    if isinstance(value, list):
        return value[:1]
    if isinstance(value, dict):  # a body, dataframe_split, or named inputs
        return {key: item if key == "columns" else _first_row(item) for key, item in value.items()}
    return value


def _predictor(source: VersionSource) -> Callable[[Any], Any]:
    """MLflow's predict on JSON, as `mlflow models serve` would answer; loads the model."""
    with _as_archive_error(source, "MLflow cannot load it"), uncollected():
        from mlflow import pyfunc
        from mlflow.pyfunc.scoring_server import infer_and_parse_data, predictions_to_json

        model = pyfunc.load_model(str(source.folder))
        schema = model.metadata.get_input_schema()

    def predict(request: Any) -> Any:
        with _as_archive_error(source, "MLflow's own predict cannot answer its input example"):
            answer = io.StringIO()
            predictions_to_json(model.predict(infer_and_parse_data(request, schema)), answer)
        # What a worker answers is strict JSON: null stands for NaN and the infinities.
        return json.loads(answer.getvalue(), parse_constant=lambda _: None)

    return predict


@contextmanager
def _as_archive_error(source: VersionSource, what: str) -> Iterator[None]:
    talk = logging.getLogger("mlflow")
    level = talk.level
    try:
        with warnings.catch_warnings():
            # Of versions that differ and formats that age: it is `needs` that judges these.
            warnings.simplefilter("ignore")
            talk.setLevel(logging.ERROR)
            yield
    except ImportError as error:
        raise ArchiveError(
            f"{source}: {what}: {error}", next='pip install "modelswitch[local]"'
        ) from error
    except Exception as error:  # a model may raise anything
        raise ArchiveError(
            f"{source}: {what}: {type(error).__name__}: {error}",
            next="try it with mlflow.models.predict, mend and log it again; "
            "or build with --no-golden",
        ) from error
    finally:
        talk.setLevel(level)


def _between(old: Document, new: Document) -> list[str]:
    """Which parts of two documents differ, by their names."""
    mine, theirs = (d.model_dump(mode="json", by_alias=True) for d in (old, new))
    parts = []
    for key in mine:
        if mine[key] == theirs[key]:
            continue
        if not isinstance(mine[key], dict) or not isinstance(theirs[key], dict):
            parts.append(f"{key}: the archive has {mine[key]}, built again it is {theirs[key]}")
            continue
        names = sorted(mine[key].keys() | theirs[key].keys())
        parts += [
            f"{key}.{name}: the archive has {mine[key].get(name)}, "
            f"built again it is {theirs[key].get(name)}"
            for name in names
            if mine[key].get(name) != theirs[key].get(name)
        ]
    return parts


def _same_bytes(one: Path, other: Path) -> bool:
    with one.open("rb") as a, other.open("rb") as b:
        while chunk := a.read(1 << 20):
            if chunk != b.read(len(chunk)):
                return False
        return not b.read(1)
