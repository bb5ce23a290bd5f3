"""The torch handler: exported programs (`model.pt2`), TorchScript (`model.pt`), state dicts of a
class that came along (`state_dict.pth`), and pickled modules (`model.pth`)."""

from __future__ import annotations

import importlib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from modelswitch.handlers.modelswitch_arrays import ArrayModel, Question, rows_by_place
    from modelswitch.handlers.modelswitch_protocol import Invalid, Worker, import_from
    from modelswitch.handlers.modelswitch_tensors import Array
else:
    from modelswitch_arrays import ArrayModel, Question, rows_by_place
    from modelswitch_protocol import Invalid, Worker, import_from
    from modelswitch_tensors import Array


class TorchModel(ArrayModel):
    """Columns become one float32 matrix, as MLflow's torch flavor makes of a DataFrame."""

    table_dtype = np.float32

    def __init__(self) -> None:
        super().__init__()
        self.module: Any = None

    def load_engine(self, folder: Path, document: dict[str, Any]) -> None:
        torch.set_num_threads(document["recipe"]["threads"])
        if (folder / "model.pt2").exists():
            program = torch.export.load(folder / "model.pt2")
            for index, shape in enumerate(_fixed_shapes(program)):
                self.signature = self.signature.narrowed(index, shape)
            self.module = program.module()
        elif (folder / "model.pt").exists():
            self.module = torch.jit.load(str(folder / "model.pt"), map_location="cpu").eval()
        elif (folder / "state_dict.pth").exists():
            import_from(folder)
            self.module = _made(document["recipe"]["module"], folder / "state_dict.pth").eval()
        else:
            import_from(folder)
            # Its build was told that it may: this runs what is in the file.
            self.module = torch.load(
                folder / "model.pth", map_location="cpu", weights_only=False
            ).eval()

    def run(self, arrays: tuple[Array, ...]) -> Any:
        try:
            with torch.inference_mode():
                return _as_numpy(self.module(*(torch.from_numpy(array) for array in arrays)))
        except AssertionError as error:  # an exported program's guards on its inputs' shapes
            raise Invalid(422, f"the model does not take these inputs: {error}") from error

    def encode(self, question: Question, output: Any) -> Any:
        """As nested lists; for a model of columns rows of `{"0": …}`, as MLflow's DataFrame."""
        if self.images is None and self.signature.is_table and isinstance(output, np.ndarray):
            return rows_by_place(output)
        return super().encode(question, output)


def _made(name: str, weights: Path) -> Any:
    """The module that `file:Class` makes, with the state dict's weights in it."""
    file, _, attribute = name.partition(":")
    module = getattr(importlib.import_module(file), attribute)()
    # Mapped and assigned, the weights stay the file's pages, which all workers share.
    mapped = zipfile.is_zipfile(weights)
    state = torch.load(weights, map_location="cpu", weights_only=True, mmap=mapped)
    module.load_state_dict(state, assign=True)
    return module


def _as_numpy(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return output.numpy(force=True)
    if isinstance(output, dict):
        return {name: _as_numpy(value) for name, value in output.items()}
    if isinstance(output, tuple | list):
        return type(output)(_as_numpy(value) for value in output)
    return output


def _fixed_shapes(program: Any) -> list[tuple[int, ...]]:
    """The lengths each input was exported with; -1 where the program takes any."""
    shapes = {
        node.name: tuple(n if isinstance(n, int) else -1 for n in node.meta["val"].shape)
        for node in program.graph.nodes
        if node.op == "placeholder" and hasattr(node.meta.get("val"), "shape")
    }
    return [shapes.get(name, ()) for name in program.graph_signature.user_inputs]


handle = Worker(TorchModel())
