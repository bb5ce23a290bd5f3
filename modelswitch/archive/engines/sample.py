"""Data of the user's: what int8 is calibrated with, and what accuracy is measured on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelswitch.archive.pictures import pixels_of
from modelswitch.archive.recipe import Recipe
from modelswitch.errors import UsageError

if TYPE_CHECKING:
    from modelswitch.archive.reference import Reference

_SUFFIXES = (".jpg", ".jpeg", ".png")
_MOST = 2000  # pictures of a folder; of more, every so manieth


@dataclass(frozen=True)
class Sample:
    """`x` (n, …), or `pictures` of files; `y` the class of each, by number or by label.

    `digest` tells one sample from another: 16 hex digits.
    """

    digest: str
    x: Any = None
    pictures: tuple[Path, ...] = ()
    y: tuple[int | str, ...] | None = None
    _pixels: dict[str, Any] = field(default_factory=dict, compare=False)

    def inputs(self, recipe: Recipe, reference: Reference) -> Any:
        """The array a model is asked: pixels, uint8 (n, channels, height, width), of images."""
        import numpy as np

        if not self.pictures:
            return self._array(recipe, reference)
        if recipe.image is None:
            raise UsageError(
                "a folder of pictures is for models that take images",
                next='--data FILE.npz with x, or input = "image" in the recipe',
            )
        key = recipe.image.model_dump_json()
        if key not in self._pixels:
            arrays = [pixels_of(path.read_bytes(), recipe.image) for path in self.pictures]
            if len({array.shape for array in arrays}) > 1:
                raise UsageError(
                    "the pictures have different sizes", next="size and crop in [recipe.image]"
                )
            self._pixels[key] = np.stack(arrays)
        return self._pixels[key]

    def _array(self, recipe: Recipe, reference: Reference) -> Any:
        import numpy as np

        if recipe.image is not None:
            if self.x.dtype != np.uint8 or self.x.ndim != 4:
                raise UsageError(
                    f"x is {self.x.dtype} of shape {self.x.shape}; of an image model it is "
                    "pixels, uint8 (n, channels, height, width), cut to size",
                    next="or --data FOLDER with a folder of pictures for each label",
                )
            return self.x
        # As the model takes it, which its input example shows.
        dtype = reference.input_dtype
        return np.ascontiguousarray(self.x, dtype=dtype)


def read_sample(path: Path) -> Sample:
    """An .npz with `x` and perhaps `y`, or a folder with a folder of pictures for each label.

    Raises UsageError for anything else.
    """
    if path.is_dir():
        return _folder(path)
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no .npz file that can be read: {error}") from error
    except AttributeError as error:  # a bare .npy has no names
        raise UsageError(f"{path} is no .npz file", next="numpy.savez(path, x=…, y=…)") from error
    if "x" not in found or found["x"].ndim < 1 or not len(found["x"]):
        raise UsageError(f"{path} holds no x with rows", next="numpy.savez(path, x=…, y=…)")
    x, y = found["x"], found.get("y")
    if y is not None and (y.shape != (len(x),) or y.dtype.kind not in "iuU"):
        raise UsageError(f"{path}: y is not one class, by number or label, for each row of x")
    hasher = hashlib.sha256(f"{x.dtype}{x.shape}".encode() + np.ascontiguousarray(x).tobytes())
    return Sample(hasher.hexdigest()[:16], x=x, y=tuple(y.tolist()) if y is not None else None)


def _folder(path: Path) -> Sample:
    pictures = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if not pictures:
        raise UsageError(f"{path} holds no JPEG or PNG", next=f"{path}/LABEL/picture.jpg")
    pictures = pictures[:: -(-len(pictures) // _MOST)]
    hasher = hashlib.sha256()
    for picture in pictures:
        hasher.update(hashlib.sha256(picture.read_bytes()).digest())
    is_labelled = all(picture.parent != path for picture in pictures)
    labels = tuple(picture.relative_to(path).parts[0] for picture in pictures)
    return Sample(
        hasher.hexdigest()[:16], pictures=tuple(pictures), y=labels if is_labelled else None
    )
