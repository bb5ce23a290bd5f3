"""Build an archive from a model version, and check that one can be built again.

It is MLflow's own predict that says what is right (`reference`), and what an engine makes of a
model is proved against that before the archive is anybody's. Nothing here talks to the registry
or the store.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from modelswitch import handlers
from modelswitch.archive import engines
from modelswitch.archive.document import Document, Identity
from modelswitch.archive.engines.sample import Sample
from modelswitch.archive.golden import Golden, compare
from modelswitch.archive.needs import lacking, used_by
from modelswitch.archive.pictures import PictureReference, resolved
from modelswitch.archive.proof import prove
from modelswitch.archive.recipe import Recipe
from modelswitch.archive.reference import Reference
from modelswitch.archive.reference import golden as golden_of
from modelswitch.archive.source import Found, VersionSource, inspect
from modelswitch.archive.verify import verify
from modelswitch.archive.writer import write
from modelswitch.effects import effect
from modelswitch.errors import ArchiveError
from modelswitch.line import label_of
from modelswitch.refs import check_name
from modelswitch.reports import Environment

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
    environments: Collection[Environment] = (),
    sample: Sample | None = None,
    proves: bool = True,
) -> Built:
    """Build `source` by `recipe` into `out_dir/<64 hex>.mar`, from where the store takes it.

    `environments` are those of the workers that shall serve it; `sample` is what int8 is
    calibrated with, of which the recipe has the digest. `proves` False: whoever asks proves it.
    Raises ArchiveError, with what to do, for a version that cannot be served, proved or carried
    by those workers.
    """
    _check_sample(source, recipe, sample)
    wanted = recipe
    if recipe.engine != "eager" and not golden:
        raise ArchiveError(
            f"{source}: the engine {recipe.engine} is proved by a golden request before it is "
            "archived",
            next='build it without --no-golden, or with engine = "eager" in the recipe',
        )
    found, recipe = _found(source, recipe, golden=golden)
    requirements = _requirements(found, recipe)
    _check_environments(source, requirements, environments)
    answer, reference = None, None
    if golden:
        with effect("archive.golden", model=source.model, version=source.version):
            reference = Reference(str(source), str(source.folder))
            answer = _golden(reference, found, recipe)
    built = _build(source, found, recipe, requirements, answer, out_dir, reference, sample)
    # What runs it is not what MLflow asked: another engine, an array for a frame, another class.
    is_other = (
        recipe.engine != "eager"
        or recipe.image is not None
        or recipe.handler in ("onnx", "sklearn")
        or recipe.module is not None
    )
    if proves and answer is not None and is_other:
        try:
            with effect("archive.prove", model=source.model, version=source.version):
                prove(str(source), built.path, built.document)
        except ArchiveError as error:
            built.path.unlink()
            if recipe.handler != "sklearn":
                raise
            if wanted.handler != "auto":
                what = 'handler = "auto" in the recipe takes pyfunc for it, with pandas'
                raise ArchiveError(str(error), next=what) from error
            # A pipeline that picks its columns by name needs a DataFrame, not an array.
            by_pandas = wanted.resolved("pyfunc")
            return build(source, by_pandas, out_dir, environments=environments)
    return built


def check(existing: Path, source: VersionSource, sample: Sample | None = None) -> list[str]:
    """Build `source` again by the recipe of the archive at `existing`; what differs, if anything.

    The recorded golden answer is used again, so that bytes can agree across machines, once
    MLflow has confirmed it within its tolerance. What was compiled never has the same bytes:
    of that only the answer is looked at. `sample` as for `build`.
    """
    document = verify(existing)
    recipe, recorded = document.recipe, document.golden
    release = handlers.release(recipe.handler, recipe.engine)
    if recipe.handler_release != release:
        return [
            f"the {recipe.handler} handler is of release {release} here, the archive's is "
            f"{recipe.handler_release}"
        ]
    found, _ = _found(source, recipe, golden=False)
    reference = Reference(str(source), str(source.folder)) if recorded else None
    differences = []
    if recorded is not None and reference is not None:
        answer = _answers(reference, recipe).answer(recorded.request)
        if why := compare(recorded, answer):
            differences.append(f"MLflow answers the golden request otherwise: {why}")
    if recipe.engine not in engines.REPEATABLE:
        return differences
    _check_sample(source, recipe, sample)
    with tempfile.TemporaryDirectory(prefix="modelswitch-") as folder:
        requirements, out = _requirements(found, recipe), Path(folder)
        again = _build(source, found, recipe, requirements, recorded, out, reference, sample)
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
    reference: Reference | None,
    sample: Sample | None,
) -> Built:
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
        runs_code=found.parts.runs_code,
        golden=golden,
        entries={},
    )
    entries: dict[str, Path | bytes] = {**handlers.files(recipe.handler, recipe.engine)}
    with tempfile.TemporaryDirectory(prefix="modelswitch-") as folder:
        if recipe.engine == "eager" or reference is None:
            entries |= found.parts.entries
        else:
            facts = {"model": source.model, "version": source.version, "engine": recipe.engine}
            with effect("archive.convert", **facts):
                entries |= engines.convert(
                    engines.Work(
                        reference=reference,
                        parts=found.parts,
                        recipe=recipe,
                        signature=found.signature,
                        example=found.example,
                        folder=Path(folder),
                        sample=sample,
                    )
                )
        written = write(out_dir, draft, entries, durable=False)
    label = label_of(source.version, written.digest)
    return Built(written.path, written.digest, label, written.size_bytes, written.document)


def _check_sample(source: VersionSource, recipe: Recipe, sample: Sample | None) -> None:
    digest = sample.digest if sample else None
    if recipe.engine == "int8" and digest != recipe.calibration:
        wanted = recipe.calibration or "its input example"
        raise ArchiveError(
            f"{source}: its recipe's calibration is {wanted}, and {digest or 'no data'} is at hand",
            next=f"modelswitch build {source} --recipe FILE --data THE_SAMPLE, once: then it is "
            "kept",
        )


def _found(source: VersionSource, recipe: Recipe, *, golden: bool) -> tuple[Found, Recipe]:
    """The version's parts and its recipe, by the handler and the engine that they lead to.

    Raises ArchiveError for a release that is not installed.
    """
    found = inspect(source, recipe, golden=golden)
    if recipe.handler == "auto" and found.parts.handler == "sklearn" and not golden:
        # Nothing could show that it takes an array for its DataFrame.
        recipe = recipe.resolved("pyfunc")
        found = inspect(source, recipe, golden=golden)
    release = handlers.release(recipe.handler, recipe.engine)
    if recipe.handler_release != release:
        raise ArchiveError(
            f"{source}: its recipe asks for release {recipe.handler_release} of the "
            f"{recipe.handler} handler, this installation has {release}",
            next="leave handler_release out of the recipe to take what is installed",
        )
    if recipe.engine != "eager" and found.example is None:
        raise ArchiveError(
            f"{source} has no input example, which the engine {recipe.engine} is made and "
            "proved with",
            next='log the model with input_example=…, or engine = "eager" in the recipe',
        )
    recipe = recipe.resolved(found.parts.handler)
    if recipe.image is not None:
        if recipe.handler not in ("torch", "onnx"):
            raise ArchiveError(
                f"{source} is served by the {recipe.handler} handler, which takes no images",
                next='input = "json" in the recipe, or log a torch or ONNX model',
            )
        image = resolved(recipe.image, str(source), found)
        recipe = recipe.model_copy(update={"image": image})
    parts = engines.parts_for(str(source), found.parts, recipe)
    return replace(found, parts=parts), recipe


def _requirements(found: Found, recipe: Recipe) -> tuple[str, ...]:
    lines = used_by(found.requirements, found.parts.needs, found.parts.pinned)
    return (*lines, "pillow") if recipe.input == "image" else lines


def _answers(reference: Reference, recipe: Recipe) -> Reference | PictureReference:
    return PictureReference(reference, recipe.image) if recipe.image else reference


def _golden(reference: Reference, found: Found, recipe: Recipe) -> Golden:
    answers, example = _answers(reference, recipe), found.example
    if isinstance(answers, PictureReference):
        example = answers.request(example)
    return golden_of(reference.name, answers, example, recipe)


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
