"""The onnx flavor: one graph, run by ONNX Runtime."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from modelswitch.archive.flavors.parts import Parts, VersionFolder
from modelswitch.archive.flavors.torch import is_number, refuse_no_numbers
from modelswitch.archive.recipe import Recipe
from modelswitch.errors import ArchiveError


def fits(version: VersionFolder) -> bool:
    """Where its inputs are numbers; MLflow's pyfunc takes the rest, such as strings."""
    return version.flavor("onnx") is not None and all(map(is_number, version.signature.inputs))


def find(version: VersionFolder, recipe: Recipe) -> Parts:
    """Raises ArchiveError for what is no ONNX model."""
    flavor = version.asked_flavor("onnx", "ONNX")
    path = version.inside(str(flavor.get("data", "model.onnx")))
    if not path.is_file():
        raise version.missing(f"there is no {path.name}")
    refuse_no_numbers(version)
    entries = {"model.onnx": path}
    # Weights may stand beside the graph, in files that it names.
    for name in _external_files(version, path):
        entries[name] = version.inside(name)
    return Parts("onnx", entries, ("onnxruntime",))


def _external_files(version: VersionFolder, path: Path) -> list[str]:
    """Names of the files, beside the graph, that hold some of its weights."""
    try:
        import onnx
    except ImportError as error:
        raise ArchiveError(
            f"{version.name}: its graph cannot be read: {error}", next="pip install onnx"
        ) from error
    try:
        graph = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own, which onnx does not name
        raise version.torn(f"{path.name} is no ONNX graph: {error}") from error
    tensors = itertools.chain(
        _tensors(graph.graph.initializer, graph.graph.node),
        *(_tensors((), function.node) for function in graph.functions),
    )
    names = sorted(
        {entry.value for t in tensors for entry in t.external_data if entry.key == "location"}
    )
    for name in names:
        if not version.inside(name).is_file():
            raise version.missing(f"there is no {name}, which holds weights of {path.name}")
    return names


def _tensors(initializers: Iterable[Any], nodes: Iterable[Any]) -> Iterator[Any]:
    """Every tensor of a graph, of its nodes' attributes and of the graphs inside of them."""
    yield from initializers
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner.initializer, inner.node)
