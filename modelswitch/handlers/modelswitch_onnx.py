"""The ONNX handler: one graph in ONNX Runtime, which needs no torch.

It runs MLflow's onnx models, and torch models that a build turned into a graph.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

if TYPE_CHECKING:
    from modelswitch.handlers.modelswitch_arrays import ArrayModel, Question, rows_by_place
    from modelswitch.handlers.modelswitch_protocol import Invalid, Worker
    from modelswitch.handlers.modelswitch_tensors import Array
else:
    from modelswitch_arrays import ArrayModel, Question, rows_by_place
    from modelswitch_protocol import Invalid, Worker
    from modelswitch_tensors import Array

# What ONNX Runtime calls numpy's types.
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{
        f"tensor({sign}int{bits})": f"{sign}int{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
_ERRORS_ONLY = 3
# Of a graph that a build has made: what it answers of pictures (see archive/engines).
OUTPUT_KEY = "modelswitch.output"


class OnnxModel(ArrayModel):
    """Answers as MLflow's onnx flavor: arrays by the graph's output names, rows for a table.

    A graph made of a torch model answers its one array as the torch model would.
    """

    def __init__(self) -> None:
        super().__init__()
        self.session: Any = None
        self.names: list[str] = []  # of the inputs, as arrays come
        self.dtypes: list[np.dtype[Any]] = []
        self.outputs: list[str] = []
        self.was_torch = False

    def load_engine(self, folder: Path, document: dict[str, Any]) -> None:
        self.session = onnxruntime.InferenceSession(
            folder / "model.onnx",
            _options(document["recipe"]["threads"]),
            providers=["CPUExecutionProvider"],
        )
        self.was_torch = document["recipe"]["handler"] == "torch"
        self.outputs = [node.name for node in self.session.get_outputs()]
        nodes = self.session.get_inputs()
        self.names = [node.name for node in nodes]
        self.dtypes = [np.dtype(_DTYPES[node.type]) for node in nodes]
        shapes = {node.name: tuple(_length(n) for n in node.shape) for node in nodes}
        if self.images is not None:
            self.signature = self.signature.narrowed(0, shapes[self.names[0]])
            self.takes_pixels = self.dtypes[0] == np.uint8
            if self.session.get_modelmeta().custom_metadata_map.get(OUTPUT_KEY) == "probabilities":
                self.images.is_logits = False
        elif self.signature.is_table:
            self.signature = replace(self.signature, table_dtype=np.result_type(*self.dtypes))
        else:
            self._by_name()
            for index, name in enumerate(self.names):
                self.signature = self.signature.narrowed(index, shapes[name])

    def _by_name(self) -> None:
        """Order the graph's inputs as the signature names them; a made graph has its order."""
        wanted = [spec.name for spec in self.signature.specs]
        if not self.was_torch and set(wanted) == set(self.names):
            dtypes = dict(zip(self.names, self.dtypes, strict=True))
            self.names = [str(name) for name in wanted]
            self.dtypes = [dtypes[name] for name in self.names]

    def run(self, arrays: tuple[Array, ...]) -> Any:
        if self.signature.is_table and self.images is None and len(self.names) > 1:
            columns = [spec.name for spec in self.signature.specs]
            arrays = tuple(arrays[0][:, columns.index(name)] for name in self.names)
        feeds = {
            name: array.astype(dtype, copy=False)
            for name, array, dtype in zip(self.names, arrays, self.dtypes, strict=True)
        }
        try:
            found = self.session.run(self.outputs, feeds)
        except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            raise Invalid(422, f"the model does not take these inputs: {error}") from error
        return found[0] if self.was_torch else dict(zip(self.outputs, found, strict=True))

    def encode(self, question: Question, output: Any) -> Any:
        if self.images is not None or not self.signature.is_table:
            return super().encode(question, output)
        if self.was_torch:
            return rows_by_place(output)
        # As MLflow, which makes a DataFrame of the outputs, each flattened to a column.
        columns = {name: np.asarray(value).reshape(-1).tolist() for name, value in output.items()}
        lengths = {len(column) for column in columns.values()}
        if len(lengths) > 1:
            raise ValueError(f"its outputs have {sorted(lengths)} values, which make no table")
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Threads that wait for work by spinning take the CPU from the other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _length(length: Any) -> int:
    """-1 for what the graph leaves open, which it names or does not."""
    return length if isinstance(length, int) else -1


handle = Worker(OnnxModel())
