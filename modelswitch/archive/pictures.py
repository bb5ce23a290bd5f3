"""Golden requests of image models, answered without our own reading of images.

What is right is torchvision's transforms on Pillow's image, MLflow's predict on the model as it
was logged, a softmax and the labels; a worker's reading of images shares none of that code.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelswitch.archive.recipe import Image
from modelswitch.archive.reference import Reference, as_archive_error
from modelswitch.errors import ArchiveError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image as Picture

    from modelswitch.archive.source import Found


def resolved(image: Image, name: str, found: Found | None = None) -> Image:
    """With what its weights, and then the model, say where it says nothing; nothing is downloaded.

    A model (`found`) that takes one height and width alone gets pictures cut to that. Raises
    ArchiveError for weights that torchvision does not know, or that are no classifier's, and for
    a model whose pictures are not square, since none would be cut to that.
    """
    filled = _by_weights(image, name)
    sides = None if filled.crop or found is None else _fixed_sides(found, name)
    if sides is None:
        return filled
    height, width = sides
    if height != width:
        raise ArchiveError(
            f"{name} takes pictures of {height} × {width} pixels (height × width) alone, and what "
            "is cut from a picture is a square",
            next='input = "json" in the recipe asks it with arrays; or log the model so that it '
            "takes squares, (n, channels, side, side), or any height and width, "
            "(-1, channels, -1, -1)",
        )
    more = {"size": filled.size or height, "crop": height}
    return Image.model_validate(filled.model_dump() | more)


def _fixed_sides(found: Found, name: str) -> tuple[int, int] | None:
    """The one height and width that a model takes, by its graph or its signature."""
    inputs = found.signature.inputs
    shape = inputs[0].get("tensor-spec", {}).get("shape", ()) if len(inputs) == 1 else ()
    if len(shape) != 4:
        return None
    sides = tuple(shape[2:])
    if -1 in sides:
        # What the signature leaves open the graph may fix.
        graph = _graph_shape(found.parts.entries, name)[2:] or (-1, -1)
        sides = tuple(g if s == -1 else s for s, g in zip(sides, graph, strict=True))
    return None if -1 in sides else sides


def _graph_shape(entries: Mapping[str, Path], name: str) -> tuple[int, ...]:
    """Of its first input, -1 for any length; () of what has no graph, or no such input."""
    shape: tuple[int, ...] = ()
    with as_archive_error(name, "its graph cannot be read"):
        if path := entries.get("model.onnx"):
            import onnx

            inner = onnx.load(path, load_external_data=False).graph
            weights = {weight.name for weight in inner.initializer}
            first = next(node for node in inner.input if node.name not in weights)
            dims = first.type.tensor_type.shape.dim
            shape = tuple(d.dim_value or -1 for d in dims)
        elif path := entries.get("model.pt2"):
            import torch

            program = torch.export.load(path)
            wanted = program.graph_signature.user_inputs[0]
            node = next(node for node in program.graph.nodes if node.name == wanted)
            shape = tuple(n if isinstance(n, int) else -1 for n in node.meta["val"].shape)
    return shape if len(shape) == 4 else ()


def _by_weights(image: Image, name: str) -> Image:
    mean, std = image.normalisation
    defaults = {"mean": mean, "std": std, "interpolation": "bilinear"}
    given = {k: v for k, v in image.model_dump().items() if v is not None}
    if image.weights is None:
        return Image.model_validate(defaults | given)
    with as_archive_error(name, f"{image.weights} cannot be looked up"):
        from torchvision.models import get_weight

        weights = get_weight(image.weights)
        transforms = weights.transforms()
    try:
        found: dict[str, Any] = {
            "size": transforms.resize_size[0],
            "crop": transforms.crop_size[0],
            "mean": list(transforms.mean),
            "std": list(transforms.std),
            "interpolation": transforms.interpolation.value,
            "labels": list(weights.meta["categories"]),
        }
    except (AttributeError, KeyError) as error:
        raise ArchiveError(
            f"{name}: {image.weights} are not those of an image classifier",
            next="size, crop, mean, std and labels in [recipe.image]",
        ) from error
    return Image.model_validate(found | given)


class PictureReference:
    """Answers requests of pictures in base64, and makes one of a model's input example."""

    def __init__(self, reference: Reference, image: Image) -> None:
        self._reference = reference
        self._image = image

    def request(self, example: Any) -> dict[str, Any]:
        """A request of one picture: the example's first, with the normalisation undone."""
        import numpy as np

        pixels = self._example(example)
        mean, std = (np.asarray(v)[:, None, None] for v in self._image.normalisation)
        grey = np.clip(np.rint((pixels * std + mean) * 255), 0, 255).astype(np.uint8)
        content = png(grey)
        return {"inputs": [{"b64": base64.b64encode(content).decode()}]}

    def answer(self, request: Any) -> Any:
        pictures = [base64.b64decode(row["b64"]) for row in request["inputs"]]
        return {"predictions": [self._one(content) for content in pictures]}

    def _one(self, content: bytes) -> list[dict[str, Any]]:
        from PIL import Image as Pillow

        with as_archive_error(self._reference.name, "torchvision cannot transform a picture"):
            array = self._transformed(Pillow.open(io.BytesIO(content)))
        found = self._reference.predict(array)
        with as_archive_error(self._reference.name, "its answers are no classes"):
            import torch

            scores = torch.from_numpy(
                next(iter(found.values())) if isinstance(found, dict) else found
            )
            (row,) = scores.softmax(1) if self._image.output == "logits" else scores
            best = row.topk(min(self._image.top, len(row)))
        labels = self._image.labels or []
        return [
            {"label": labels[i] if i < len(labels) else str(i), "score": score}
            for score, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def _transformed(self, picture: Picture) -> Any:
        """float32 of (1, channels, height, width)."""
        from torchvision.transforms import functional

        image = self._image
        pixels = functional.to_tensor(_cut(picture, image))
        return functional.normalize(pixels, *image.normalisation)[None].numpy()

    def _example(self, example: Any) -> Any:
        """The first row of the input example, (channels, height, width)."""
        import numpy as np

        found = self._reference.data(example)
        if isinstance(found, dict) and len(found) == 1:
            (found,) = found.values()
        channels = self._image.channels
        if not isinstance(found, np.ndarray) or found.ndim != 4 or found.shape[1] != channels:
            shape = getattr(found, "shape", type(found).__name__)
            raise ArchiveError(
                f"{self._reference.name}: its input example is no batch of pictures with "
                f"{channels} channels, (n, {channels}, height, width), but {shape}",
                next="mean and std in [recipe.image] have one number for each channel",
            )
        return found[0]


def _cut(picture: Picture, image: Image) -> Picture:
    """As torchvision's transforms for classification resize and crop."""
    from torchvision.transforms import InterpolationMode, functional

    picture = picture.convert("RGB" if image.channels == 3 else "L")
    if image.size:
        picture = functional.resize(
            picture, [image.size], InterpolationMode(image.interpolation or "bilinear")
        )
    return functional.center_crop(picture, [image.crop]) if image.crop else picture


def pixels_of(content: bytes, image: Image) -> Any:
    """A picture of somebody's data, uint8 of (channels, height, width); raises UsageError."""
    import numpy as np
    from PIL import Image as Pillow
    from PIL import ImageOps

    try:
        picture = ImageOps.exif_transpose(Pillow.open(io.BytesIO(content)))
        pixels = np.asarray(_cut(picture, image))
    except OSError as error:
        raise UsageError(f"a picture of the data cannot be read: {error}") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def png(pixels: Any) -> bytes:
    """uint8 of (1 or 3, height, width) without loss."""
    from PIL import Image as Pillow

    out = io.BytesIO()
    layers = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    Pillow.fromarray(layers).save(out, format="PNG")
    return out.getvalue()
