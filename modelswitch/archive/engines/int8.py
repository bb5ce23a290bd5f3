"""`int8`: weights and activations of a graph in 8 bits, their ranges seen on a sample.

The sample is the caller's data, else the input example, which is a poor one: a few rows seldom
show how large numbers get. Ranges are fixed at build (static); those found at run time are
several times slower than float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelswitch.archive.engines.failures import as_not_converted
from modelswitch.archive.engines.onnx import graph_of, save
from modelswitch.archive.engines.program import example_inputs
from modelswitch.errors import ArchiveError

if TYPE_CHECKING:
    from modelswitch.archive.engines import Work

# What a convolution or a product passes through on its way to the next; a softmax stays as it
# is, since 256 steps are too few for probabilities.
_OPERATORS = (
    *("Conv", "ConvTranspose", "MatMul", "Gemm", "Add", "Mul", "Relu", "Clip", "MaxPool"),
    *("AveragePool", "GlobalAveragePool", "Concat", "HardSigmoid", "Sigmoid"),
)
_ROWS, _BATCH = 256, 8


def convert(work: Work) -> Mapping[str, Path]:
    """The quantised graph's files; raises ArchiveError."""
    import onnx

    graph = graph_of(work) if work.parts.handler == "torch" else _logged(work)
    _refuse_nothing_to_do(work, graph)
    with as_not_converted(work, "onnxruntime.quantization"):
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        plain, made = work.folder / "plain.onnx", work.folder / "int8.onnx"
        quant_pre_process(graph, plain)
        quantize_static(
            plain,
            made,
            _Reader(_feeds(work, [node.name for node in graph.graph.input])),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_OPERATORS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        found = onnx.load(made)
    # What a graph says of itself is lost on the way.
    del found.metadata_props[:]
    found.metadata_props.extend(graph.metadata_props)
    return save(found, work.folder)


def _logged(work: Work) -> Any:
    import onnx

    with as_not_converted(work, "onnx"):
        return onnx.load(work.parts.entries["model.onnx"])


def _refuse_nothing_to_do(work: Work, graph: Any) -> None:
    found = {node.op_type for node in graph.graph.node}
    if not found & {"Conv", "ConvTranspose", "MatMul", "Gemm"}:
        raise ArchiveError(
            f"{work.name}: the engine int8 finds neither convolution nor product in it, only "
            f"{', '.join(sorted(found))}",
            next='it stays as it is: engine = "onnx" or "eager" serves it',
        )


def _feeds(work: Work, names: list[str]) -> Iterator[dict[str, Any]]:
    """The sample in batches, by the graph's inputs."""
    if work.sample is not None:
        arrays = [work.sample.inputs(work.recipe, work.reference)]
    else:
        arrays = [tensor.numpy() for tensor in example_inputs(work)]
    if len(arrays) != len(names):
        raise ArchiveError(
            f"{work.name} takes {len(names)} inputs and the sample has {len(arrays)}",
            next="calibrate it with its input example, which has them all: without --data",
        )
    rows = min(_ROWS, *(len(array) for array in arrays))
    for first in range(0, rows, _BATCH):
        yield dict(zip(names, (a[first : min(first + _BATCH, rows)] for a in arrays), strict=True))


class _Reader:
    """What onnxruntime.quantization calls a CalibrationDataReader."""

    def __init__(self, feeds: Iterator[dict[str, Any]]) -> None:
        self._feeds = feeds

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)
