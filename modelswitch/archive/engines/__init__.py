"""Engines: what a model as it was logged is turned into, so that it runs faster. A file for each.

Runs at build only, in a folder that is handed in; imports torch, ONNX and compilers when asked
to convert. It changes nothing of the version: what cannot be converted is an ArchiveError that
names the operator. It decides nothing about serving; that an engine answers right is proved by
`trial`, on the archive itself, before anybody gets it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelswitch.archive.document import Signature
from modelswitch.archive.engines.sample import Sample
from modelswitch.archive.flavors import Parts
from modelswitch.archive.recipe import Recipe
from modelswitch.archive.reference import Reference
from modelswitch.errors import ArchiveError

__all__ = ["REPEATABLE", "Work", "convert", "parts_for"]


@dataclass(frozen=True, slots=True)
class Work:
    """One conversion: the model, how it is to be served, an example, a folder for what is made.

    `sample` is data that int8 is calibrated with instead of the example.
    """

    reference: Reference
    parts: Parts
    recipe: Recipe
    signature: Signature
    example: Any
    folder: Path
    sample: Sample | None = None

    @property
    def name(self) -> str:
        return self.reference.name


def _onnx(work: Work) -> Mapping[str, Path]:
    from modelswitch.archive.engines import onnx

    return onnx.convert(work)


def _int8(work: Work) -> Mapping[str, Path]:
    from modelswitch.archive.engines import int8

    return int8.convert(work)


def _compiled(work: Work) -> Mapping[str, Path]:
    from modelswitch.archive.engines import compiled

    return compiled.convert(work)


_ENGINES: dict[str, Callable[[Work], Mapping[str, Path]]] = {
    "onnx": _onnx,
    "int8": _int8,
    "compile": _compiled,
    "bf16": _compiled,
}
# What a worker needs of each: named here, pinned to what stands on the machine that builds.
_NEEDS = {"onnx": "onnxruntime", "int8": "onnxruntime", "compile": "torch", "bf16": "torch"}
# Which handlers' models each takes.
_TAKES = {"int8": ("torch", "onnx")}
# Whose bytes are the same every time.
REPEATABLE = ("eager", "onnx", "int8")


def parts_for(name: str, parts: Parts, recipe: Recipe) -> Parts:
    """What the engine needs of a worker; raises ArchiveError where it cannot take such a model."""
    if recipe.device != "cpu" and (recipe.engine != "eager" or parts.handler == "onnx"):
        what = "the onnx handler" if recipe.engine == "eager" else f"the engine {recipe.engine}"
        raise ArchiveError(
            f"{name}: {what} runs on the CPU, and its recipe's device is {recipe.device}",
            next='device = "cpu" in the recipe',
        )
    if recipe.engine == "eager":
        return parts
    takes = _TAKES.get(recipe.engine, ("torch",))
    if parts.handler not in takes:
        raise ArchiveError(
            f"{name} is served by the {parts.handler} handler, and the engine {recipe.engine} "
            f"takes {' and '.join(takes)} models",
            next='engine = "eager" in the recipe serves it as it was logged',
        )
    package = _NEEDS[recipe.engine]
    return replace(parts, needs=(), pinned={package: _installed(name, package)}, runs_code=False)


def convert(work: Work) -> Mapping[str, Path]:
    """Files of the archive by their names; raises ArchiveError, with the operator's name."""
    return _ENGINES[work.recipe.engine](work)


def _installed(name: str, package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError as error:
        raise ArchiveError(
            f"{name}: {package}, which its engine needs, is not installed here",
            next='pip install "modelswitch[local]"',
        ) from error
