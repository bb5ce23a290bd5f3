"""A torch model as one exported program: pre- and post-processing of images inside."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from modelswitch.archive.engines.failures import as_not_converted
from modelswitch.archive.recipe import Image, Recipe
from modelswitch.errors import ArchiveError

if TYPE_CHECKING:
    import torch

    from modelswitch.archive.engines import Work


def export(work: Work, *, half: bool = False) -> torch.export.ExportedProgram:
    """Export the model again, its free dimensions as free as they were.

    Of images its input is pixels, uint8 of (n, channels, height, width), and its answer
    probabilities. `half`: the model itself in bfloat16, between float32. Raises ArchiveError.
    """
    import torch

    module = work.reference.raw
    if isinstance(module, torch.jit.ScriptModule):
        raise ArchiveError(
            f"{work.name} is TorchScript, which only the engine eager runs",
            next="log it as .pt2 (mlflow.pytorch.log_model's default) to convert it",
        )
    inputs = example_inputs(work)
    free = _free_dimensions(module, work, inputs)
    with as_not_converted(work, "torch.export"), torch.no_grad():
        served = _served(
            copy.deepcopy(module).to(torch.bfloat16) if half else module, work.recipe, half
        )
        return torch.export.export(served, inputs, dynamic_shapes={"arrays": free})


def example_inputs(work: Work) -> tuple[torch.Tensor, ...]:
    """At least two rows each: torch.export takes a dimension of size 1 for a constant."""
    import numpy as np
    import torch

    found = work.reference.data(work.example)
    if hasattr(found, "to_numpy"):  # a DataFrame, as MLflow's torch flavor makes a matrix of it
        found = found.to_numpy(dtype=np.float32)
    arrays = list(found.values()) if isinstance(found, dict) else [found]
    if work.recipe.image is not None:
        arrays = [_pixels(work.recipe.image, arrays[0])]
    pairs = [a if len(a) > 1 else np.concatenate([a, a]) for a in map(np.asarray, arrays)]
    return tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in pairs)


def _pixels(image: Image, array: Any) -> Any:
    """The example as pixels again, uint8 of the size that the worker cuts pictures to."""
    import torch

    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in image.normalisation)
    grey = (torch.as_tensor(array).float() * std + mean) * 255
    if image.crop:
        grey = torch.nn.functional.interpolate(grey, (image.crop, image.crop))
    return grey.round().clamp(0, 255).to(torch.uint8).numpy()


def _free_dimensions(
    module: Any, work: Work, inputs: tuple[torch.Tensor, ...]
) -> tuple[dict[int, Any], ...]:
    """Which dimensions of each input may have any length: the model's, else the signature's."""
    import torch

    shapes = [
        node.meta["val"].shape
        for node in (module.graph.nodes if hasattr(module, "graph") else ())
        if node.op == "placeholder" and hasattr(node.meta.get("val"), "shape")
    ]
    if len(shapes) != len(inputs):
        specs = [spec.get("tensor-spec", {}) for spec in work.signature.inputs]
        shapes = [spec.get("shape", (-1,)) for spec in specs][: len(inputs)]
    fixed = set() if work.recipe.image is None or not work.recipe.image.crop else {2, 3}
    return tuple(
        {
            place: torch.export.Dim.DYNAMIC
            for place, length in enumerate(shape)
            if place not in fixed and (not isinstance(length, int) or length == -1)
        }
        for shape in shapes
    )


def _served(inner: Any, recipe: Recipe, half: bool) -> torch.nn.Module:
    import torch

    image = recipe.image

    class Served(torch.nn.Module):  # type: ignore[misc]
        """The model with what the worker would else do around it."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = inner
            if image is not None:
                mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in image.normalisation)
                self.register_buffer("scale", 1 / (255 * std))
                self.register_buffer("shift", mean / std)

        def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
            if image is not None:
                arrays = (arrays[0].float() * self.scale - self.shift,)
            if half:
                arrays = tuple(a.bfloat16() if a.is_floating_point() else a for a in arrays)
            answer = self.inner(*arrays)
            if not isinstance(answer, torch.Tensor):
                raise TypeError(f"it answers a {type(answer).__name__}, not one tensor")
            if half and answer.is_floating_point():
                answer = answer.float()
            return answer.softmax(1) if image is not None and image.output == "logits" else answer

    if not hasattr(inner, "graph"):  # an exported program was exported as it answers
        inner.eval()
    return Served()
