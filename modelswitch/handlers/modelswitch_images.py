"""JPEG and PNG as they are: decoded, resized and cropped here, labels and scores out.

Pixels are those of torchvision's transforms on Pillow's images, whose decoder and resizing this
uses; neither torch nor torchvision is imported. A picture stands as its EXIF orientation says.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from modelswitch.handlers.modelswitch_protocol import Invalid, Request
    from modelswitch.handlers.modelswitch_tensors import Array
else:
    from modelswitch_protocol import Invalid, Request
    from modelswitch_tensors import Array

# A picture of more pixels than this is refused before it is decoded: 100 bytes may claim them.
MAX_PIXELS = 50_000_000
_FORMATS = ("JPEG", "PNG")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_HOW = (
    'send a JPEG or PNG as the body (Content-Type: image/jpeg), or JSON {"inputs": [{"b64": "…"}]}'
)


class Images:
    """Reads a request's pictures by the recipe's `image` table, and labels the answers."""

    def __init__(self, recipe: dict[str, Any]) -> None:
        self.size: int | None = recipe["size"]
        self.crop: int | None = recipe["crop"]
        self.labels: list[str] | None = recipe["labels"]
        self.top: int = recipe["top"]
        self.is_logits = recipe["output"] == "logits"
        self.mode = "RGB" if len(recipe["mean"]) == 3 else "L"
        mean, std = (np.asarray(recipe[key], np.float32)[:, None, None] for key in ("mean", "std"))
        self._scale, self._shift = np.float32(1) / (255 * std), mean / std
        self._resampling = Image.Resampling[recipe["interpolation"].upper()]

    def read(self, request: Request) -> Array:
        """The request's pictures, uint8 of (pictures, channels, height, width)."""
        content = request.content
        is_raw = isinstance(content, bytes | bytearray)
        # What is in it counts: a picture is often sent as a form, or as whatever.
        if is_raw and (request.is_binary or bytes(content[:8]).startswith(_MAGIC)):
            return self._decoded(request.bytes)[None]
        pictures = [self._decoded(_from_base64(row)) for row in _rows(request.body)]
        if len({picture.shape for picture in pictures}) > 1:
            raise Invalid(422, "the pictures have different sizes and the recipe has no crop")
        return np.stack(pictures)

    def check(self, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        """Refuse pictures of `found` (pictures, channels, height, width) that the model does not
        take: `wanted` has -1 for any length."""
        if len(wanted) != 4 or all(w in (-1, f) for w, f in zip(wanted, found, strict=True)):
            return
        many, _, *sides = ("any" if w == -1 else w for w in wanted)
        expected = f"{sides[0]} × {sides[1]} pixels (height × width)"
        if wanted[0] not in (-1, found[0]):
            what = f"pictures sent: {found[0]}; the model takes {many} at a time"
        elif wanted[1] not in (-1, found[1]):
            what = (
                f"pictures are read with {found[1]} channels and the model takes {wanted[1]}: "
                "mean and std in the recipe have one number for each"
            )
        else:
            how = "once it is resized and cut" if self.size or self.crop else "as it came"
            what = (
                f"the picture has {found[2]} × {found[3]} pixels (height × width) {how}; "
                f"the model takes {expected}"
            )
        raise Invalid(422, what, expected={"shape": list(wanted)}, found=list(found))

    def normalised(self, pictures: Array) -> Array:
        """As float32 of the same shape: `(value / 255 - mean) / std`."""
        return np.asarray(pictures.astype(np.float32) * self._scale - self._shift)

    def scores(self, output: Any) -> Array:
        """Probabilities, (pictures, classes), of what the model answered."""
        scores = np.asarray(next(iter(output.values())) if isinstance(output, dict) else output)
        if scores.ndim != 2:
            raise ValueError(f"the model answered shape {scores.shape}, not (pictures, classes)")
        if not self.is_logits:
            return scores
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(scores / scores.sum(axis=1, keepdims=True))

    def answer(self, output: Any) -> list[list[dict[str, Any]]]:
        """For each picture its best labels with their scores, best first."""
        return [
            [{"label": self._label(i), "score": float(row[i])} for i in self._best(row)]
            for row in self.scores(output)
        ]

    def _best(self, row: Array) -> list[int]:
        """Places of the highest scores, the first of equal ones first: a fifth of sorting all."""
        least = np.partition(row, -self.top)[-self.top] if self.top < len(row) else -np.inf
        places = np.flatnonzero(~(row < least))  # NaN too, which comes last
        best: list[int] = places[np.argsort(-row[places], kind="stable")][: self.top].tolist()
        return best

    def _label(self, place: int) -> str:
        labels = self.labels or []
        return labels[place] if place < len(labels) else str(place)

    def _decoded(self, content: bytes | bytearray) -> Array:
        """uint8 of (channels, height, width); raises Invalid for what is no such picture."""
        try:
            picture = self._picture(content)
        except (Invalid, MemoryError):
            raise
        except Exception as error:
            # Decoders raise what they like, and all they were given is the caller's.
            raise Invalid(
                422, f"the picture is no JPEG or PNG that can be read: {error}"
            ) from error
        pixels = self._cropped(np.asarray(self._resized(picture), np.uint8))
        return np.ascontiguousarray(pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None])

    def _picture(self, content: bytes | bytearray) -> Image.Image:
        try:
            file = Image.open(io.BytesIO(content), formats=_FORMATS)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise _too_large("far too many") from error
        if file.width * file.height > MAX_PIXELS:
            raise _too_large(f"{file.width} × {file.height}")
        # Before it is turned: decoding reads the EXIF data of a PNG, which may stand at its end.
        file.load()
        picture: Image.Image = file
        with contextlib.suppress(Exception):  # a camera's broken notes are no broken picture
            ImageOps.exif_transpose(picture, in_place=True)
        if picture.mode.startswith("I"):
            # 16 bits of grey, which `convert` would clip to white instead of scaling them.
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        return picture if picture.mode == self.mode else picture.convert(self.mode)

    def _resized(self, picture: Image.Image) -> Image.Image:
        """As torchvision's Resize: the longer side is cut to a whole number, not rounded."""
        if not self.size or min(picture.size) == self.size:
            return picture
        short = min(picture.size)
        width, height = (int(self.size * side / short) for side in picture.size)
        if width * height > MAX_PIXELS:
            raise _too_large(f"{width} × {height}, once its shorter side is {self.size},")
        return picture.resize((width, height), self._resampling)

    def _cropped(self, pixels: Array) -> Array:
        """As torchvision's CenterCrop: black around what is too small, halves to the even."""
        if not self.crop:
            return pixels
        rows, columns = (max(0, self.crop - side) for side in pixels.shape[:2])
        if rows or columns:
            edges = [(side // 2, side - side // 2) for side in (rows, columns)]
            pixels = np.pad(pixels, [*edges, (0, 0)][: pixels.ndim])
        top, left = (round((side - self.crop) / 2) for side in pixels.shape[:2])
        return pixels[top : top + self.crop, left : left + self.crop]


def _too_large(what: str) -> Invalid:
    return Invalid(422, f"the picture has {what} pixels; at most {MAX_PIXELS:,} are read")


def _rows(body: dict[str, Any]) -> list[Any]:
    forms = [key for key in body if key != "params"]
    if forms not in (["inputs"], ["instances"]):
        raise Invalid(400, f"{_HOW}; found {sorted(body)[:10]}")
    if body.get("params"):
        raise Invalid(422, "this model takes no params")
    rows = body[forms[0]]
    if not isinstance(rows, list) or not rows:
        raise Invalid(422, f"{forms[0]} is not a list of pictures in base64: {_HOW}")
    return rows


def _from_base64(row: Any) -> bytes:
    text = row.get("b64") if isinstance(row, dict) else row
    if not isinstance(text, str):
        raise Invalid(422, 'a picture is {"b64": "…"} or its base64 text')
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid(422, f"a picture's text is not base64: {error}") from error
