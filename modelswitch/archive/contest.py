"""Each engine tried on this machine: how fast, how large, how far off, how right.

An engine is built as it would be for serving, proved, and run in a process of its own with one
thread, by the handler that would serve it. Nothing is stored.
"""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from modelswitch.archive.build import Built, VersionSource, build
from modelswitch.archive.engines.sample import Sample
from modelswitch.archive.proof import extracted, prove, run_trial
from modelswitch.archive.recipe import Engine, Recipe
from modelswitch.archive.reference import Reference
from modelswitch.archive.source import inspect
from modelswitch.effects import effect
from modelswitch.errors import ArchiveError, ModelSwitchError

ENGINES: tuple[Engine, ...] = get_args(Engine)
BATCHES = (1, 8)
_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Tried:
    """What one engine did. `why` it may not serve, else None; figures are None where it failed.

    Times are of the handler's whole way, from a request's body to the answer's: `latency_ms` the
    median of one request alone, `a_second` rows by the size of the batch. `deviation` is the
    largest from eager in any number of an answer, `accuracy` the share of the data's classes
    that were named right.
    """

    engine: Engine
    recipe: Recipe
    why: str | None = None
    latency_ms: float | None = None
    a_second: dict[int, float] | None = None
    memory_bytes: int | None = None
    size_bytes: int | None = None
    deviation: float | None = None
    accuracy: float | None = None
    golden: str | None = None


def contest(
    source: VersionSource,
    recipe: Recipe,
    *,
    engines: Sequence[Engine] = ENGINES,
    sample: Sample | None = None,
) -> Iterator[Tried]:
    """Each engine in turn, eager always first, since the others are held against it.

    One that fails, however it fails, is told so in its `why`, and the others are tried still.
    Raises ArchiveError for a version that eager itself cannot serve, and for handlers whose
    models no engine takes; UsageError for a sample that is no such model's.
    """
    plain = Recipe.model_validate(
        recipe.model_dump()
        | {"engine": "eager", "handler_release": "", "calibration": None, "threads": 1}
    )
    handler = inspect(source, plain, golden=True).parts.handler
    if handler not in ("torch", "onnx"):
        raise ArchiveError(
            f"{source} is served by the {handler} handler, and engines are for torch and ONNX",
            next=f"modelswitch promote {source} serves it as it is",
        )
    asked: list[Engine] = ["eager", *(engine for engine in engines if engine != "eager")]
    with tempfile.TemporaryDirectory(prefix="modelswitch-") as folder:
        field = _Field(source, Path(folder), sample)
        for engine in asked:
            entered = field.entered(engine, plain)
            try:
                with effect("engines.try", model=source.model, engine=engine):
                    tried = field.run(entered)
            except Exception as error:  # a model, a converter, their libraries may raise anything
                if engine == "eager" and isinstance(error, ModelSwitchError):
                    raise
                tried = Tried(engine, entered, why=_failed(error))
            if engine == "eager" and tried.a_second is None:
                raise ArchiveError(f"{source}: eager itself cannot serve it: {tried.why}")
            yield tried


class _Field:
    """What the engines of one contest share: the questions, and eager's answers."""

    def __init__(self, source: VersionSource, folder: Path, sample: Sample | None) -> None:
        self._source = source
        self._folder = folder
        self._sample = sample
        self._inputs: Path | None = None
        self._body: dict[str, str] | None = None
        self._eager: Any = None

    def entered(self, engine: Engine, plain: Recipe) -> Recipe:
        """The recipe by which it takes part."""
        data = plain.model_dump() | {"engine": engine, "handler_release": ""}
        if engine == "int8" and self._sample is not None:
            data["calibration"] = self._sample.digest
        return Recipe.model_validate(data)

    def run(self, recipe: Recipe) -> Tried:
        engine = recipe.engine
        sample = self._sample if engine == "int8" else None
        try:
            built = build(self._source, recipe, self._folder, sample=sample, proves=False)
        except ArchiveError as error:
            return Tried(engine, recipe, why=error.message)
        why = None
        try:
            if engine != "eager" or recipe.image is not None:
                prove(str(self._source), built.path, built.document)
        except ArchiveError as error:
            why = error.message
        try:
            return self._measured(engine, recipe, built, why)
        except ArchiveError as error:
            return Tried(engine, recipe, why=why or error.message)
        finally:
            built.path.unlink()

    def _measured(self, engine: Engine, recipe: Recipe, built: Built, why: str | None) -> Tried:
        import numpy as np

        if self._inputs is None:
            self._prepare(built)
        outputs = self._folder / f"{engine}.npy"
        task = {
            "measure": {"body": self._body, "batches": BATCHES, "seconds": _SECONDS},
            "run": {"inputs": str(self._inputs), "outputs": str(outputs)},
        }
        with extracted(built.path) as folder:
            found = run_trial(str(self._source), folder, task, built.document)
        answers = np.load(outputs)
        if engine == "eager":
            self._eager = answers
        size = {int(batch): rate for batch, rate in found["a_second"].items()}
        return Tried(
            engine,
            recipe,
            why=why,
            latency_ms=found["latency_ms"],
            a_second=size,
            memory_bytes=found["memory_bytes"],
            size_bytes=built.size_bytes,
            deviation=_largest(answers, self._eager),
            accuracy=self._accuracy(answers, built),
            golden=built.document.golden.kind if built.document.golden else None,
        )

    def _prepare(self, built: Built) -> None:
        """The questions: a request's body to be timed with, and arrays to be compared by."""
        import numpy as np

        golden = built.document.golden
        assert golden is not None  # noqa: S101 - contests are of what has an input example
        reference = Reference(str(self._source), str(self._source.folder))
        image = built.document.recipe.image
        if self._sample is not None:
            arrays = [self._sample.inputs(built.document.recipe, reference)]
        elif image is not None:
            from modelswitch.archive.pictures import pixels_of

            rows = [base64.b64decode(row["b64"]) for row in golden.request["inputs"]]
            arrays = [np.stack([pixels_of(content, image) for content in rows])]
        else:
            found = reference.data(golden.request)
            if hasattr(found, "to_numpy"):
                found = found.to_numpy(dtype=np.float32)
            arrays = list(found.values()) if isinstance(found, dict) else [found]
        self._inputs = self._folder / "inputs.npz"
        np.savez(self._inputs, *arrays)
        self._body = _body(golden.request, is_image=image is not None)

    def _accuracy(self, answers: Any, built: Built) -> float | None:
        if self._sample is None or self._sample.y is None or answers.ndim != 2:
            return None
        image = built.document.recipe.image
        labels = (image.labels if image else None) or [str(i) for i in range(answers.shape[1])]
        best = answers.argmax(axis=1).tolist()
        # A slice: a model may have more classes than there are labels.
        right = [
            place == wanted if isinstance(wanted, int) else labels[place : place + 1] == [wanted]
            for place, wanted in zip(best, self._sample.y, strict=True)
        ]
        return float(sum(right) / len(right))


def fastest(tried: Sequence[Tried]) -> Tried | None:
    """The one that answers most in a second, of those that may serve."""
    fit = [one for one in tried if one.why is None and one.a_second]
    return max(fit, key=lambda one: max((one.a_second or {}).values()), default=None)


def _failed(error: Exception) -> str:
    if isinstance(error, ModelSwitchError):
        return error.message
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"failed: {type(error).__name__}: {' / '.join(lines[:3])}"
    return text if len(text) <= 300 else text[:297] + "..."


def _largest(answers: Any, eager: Any) -> float | None:
    import numpy as np

    if answers.shape != eager.shape or answers.dtype.kind not in "fiub":
        return None
    off = np.abs(answers.astype(np.float64) - eager.astype(np.float64))
    return float(off.max(initial=0.0))


def _body(request: Any, *, is_image: bool) -> dict[str, str]:
    """One row of the golden request: JSON, or a JPEG as a caller would send it."""
    import json

    from modelswitch.archive.reference import first_row

    if not is_image:
        text = json.dumps(first_row(request)).encode()
        return {"b64": base64.b64encode(text).decode(), "content_type": "application/json"}
    from PIL import Image as Pillow

    picture = Pillow.open(io.BytesIO(base64.b64decode(request["inputs"][0]["b64"])))
    out = io.BytesIO()
    picture.save(out, format="JPEG", quality=90)
    content = base64.b64encode(out.getvalue()).decode()
    return {"b64": content, "content_type": "image/jpeg"}
