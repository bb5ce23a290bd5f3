"""`onnx`: a torch model as one graph in ONNX Runtime, the fastest by far when this was measured.

The same program gives the same bytes: everything that tells of the machine is taken out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelswitch.archive.engines.failures import as_not_converted
from modelswitch.archive.engines.program import export
from modelswitch.errors import ArchiveError

if TYPE_CHECKING:
    from modelswitch.archive.engines import Work

# Read by the handler: what the graph answers of pictures.
OUTPUT_KEY = "modelswitch.output"
# A protobuf message holds no more; weights beyond it stand in a file of their own.
_INLINE_BYTES = (2 << 30) - (16 << 20)


def convert(work: Work) -> Mapping[str, Path]:
    """`model.onnx`, and `model.onnx.data` where its weights do not fit into that."""
    graph = graph_of(work)
    return save(graph, work.folder)


def graph_of(work: Work) -> Any:
    """The ONNX ModelProto of a torch model; raises ArchiveError."""
    program = export(work)
    with as_not_converted(work, "torch.onnx"):
        import torch

        made = torch.onnx.export(program, dynamo=True, verbose=False)
        graph = made.model_proto
    _strip(graph)
    if not graph.graph.input or len(graph.graph.output) != 1:
        raise ArchiveError(f"{work.name}: its graph has no input, or more than one output")
    if work.recipe.image is not None:
        entry = graph.metadata_props.add()
        entry.key, entry.value = OUTPUT_KEY, "probabilities"
    return graph


def save(graph: Any, folder: Path) -> Mapping[str, Path]:
    """Write a ModelProto; the files by their names in the archive."""
    import onnx

    path = folder / "model.onnx"
    if graph.ByteSize() <= _INLINE_BYTES:
        path.write_bytes(graph.SerializeToString(deterministic=True))
        return {path.name: path}
    data = folder / "model.onnx.data"
    onnx.save_model(graph, path, save_as_external_data=True, location=data.name)
    return {path.name: path, data.name: data}


def _strip(graph: Any) -> None:
    """Take out what only tells where it was made: stack traces, names of files."""
    del graph.metadata_props[:]
    inner = graph.graph
    inner.ClearField("metadata_props")
    inner.ClearField("doc_string")
    for node in (*inner.node, *inner.value_info, *inner.input, *inner.output, *inner.initializer):
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for function in graph.functions:
        function.ClearField("metadata_props")
        function.ClearField("doc_string")
        for node in function.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
