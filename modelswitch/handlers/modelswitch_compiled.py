"""The handler of compiled models: a package of AOTInductor's, made for one kind of processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from modelswitch.handlers.modelswitch_arrays import ArrayModel, Question, rows_by_place
    from modelswitch.handlers.modelswitch_cpu import lacking
    from modelswitch.handlers.modelswitch_protocol import Worker
    from modelswitch.handlers.modelswitch_tensors import Array
else:
    from modelswitch_arrays import ArrayModel, Question, rows_by_place
    from modelswitch_cpu import lacking
    from modelswitch_protocol import Worker
    from modelswitch_tensors import Array


class CompiledModel(ArrayModel):
    """Answers as the torch handler does."""

    table_dtype = np.float32

    def __init__(self) -> None:
        super().__init__()
        self.package: Any = None
        self.dtypes: list[np.dtype[Any]] = []

    def load_engine(self, folder: Path, document: dict[str, Any]) -> None:
        made = json.loads((folder / "engine.json").read_bytes())
        # Code for another processor loads, and dies at its first unknown instruction.
        if lacks := lacking(made["cpu"]):
            raise RuntimeError(
                f"it was compiled for a processor with {', '.join(lacks)}, which this one has "
                'not: build it on a machine like this one, or with engine = "onnx"'
            )
        torch.set_num_threads(document["recipe"]["threads"])
        # The loader itself: what torch puts around it compiles programs to find out what the
        # processor can do, with a compiler that a worker need not have, and costs each call.
        path = str(folder / "model.pt2")
        self.package = torch._C._aoti.AOTIModelPackageLoader(path, "model", False, 1, -1)
        self.dtypes = [np.dtype(spec["dtype"]) for spec in made["inputs"]]
        for index, spec in enumerate(made["inputs"]):
            self.signature = self.signature.narrowed(index, tuple(spec["shape"]))
        if self.images is not None:
            self.takes_pixels, self.images.is_logits = True, False

    def run(self, arrays: tuple[Array, ...]) -> Any:
        # Neither strides nor types are checked by what was compiled.
        tensors = [
            torch.from_numpy(np.ascontiguousarray(array, dtype=dtype))
            for array, dtype in zip(arrays, self.dtypes, strict=True)
        ]
        with torch.inference_mode():
            (answer,) = self.package.boxed_run(tensors)
            return answer.numpy()

    def encode(self, question: Question, output: Any) -> Any:
        if self.images is None and self.signature.is_table:
            return rows_by_place(output)
        return super().encode(question, output)


handle = Worker(CompiledModel())
