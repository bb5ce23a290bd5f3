"""What is sent: Python values, arrays, tables, tensors, images and files as bodies of requests."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelswitch.errors import UsageError

JSON = "application/json"
NPY = "application/x-npy"
JPEG = "image/jpeg"
PNG = "image/png"

# What MLflow's scoring protocol calls the ways to give inputs, and what may stand beside them.
FORMATS = frozenset({"inputs", "instances", "dataframe_split", "dataframe_records"})
_BESIDE = frozenset({"params"})

# Arrays of so many bytes go out as they are; smaller ones as JSON, which every model reads. As
# JSON an array of that size takes 2 ms to write, one of an image 80 ms; as .npy 0.1 ms.
BINARY_FROM_BYTES = 16_384

_MAGIC = ((b"\xff\xd8\xff", JPEG), (b"\x89PNG\r\n\x1a\n", PNG), (b"\x93NUMPY", NPY))
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".npy", ".json", ".csv"})
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


@dataclass(frozen=True, slots=True)
class Body:
    """One request's body."""

    content: bytes
    content_type: str


def body_of(inputs: Any, *, content_type: str | None = None, binary: bool | None = None) -> Body:
    """The body for `inputs`; raises UsageError for what cannot be sent.

    - a dict with `inputs`, `instances`, `dataframe_split` or `dataframe_records` is the whole
      request; any other dict, and lists, numbers and strings, are its `inputs`
    - a NumPy array or a torch tensor: JSON, or .npy when it is `binary` or, unless told, large
    - a pandas DataFrame, or a Series as one column: `dataframe_split`
    - a Pillow image, or the bytes or the Path of a JPEG, PNG, .npy or .json: as they are; a list
      of images: base64 in JSON. The Path of a .csv: read by pandas.
    - bytes with a `content_type`: as they are
    """
    if isinstance(inputs, Path):
        return _of_file(inputs, content_type, binary)
    if isinstance(inputs, bytes | bytearray | memoryview):
        content = bytes(inputs)
        return Body(content, content_type or kind_of(content))
    if isinstance(inputs, str) and _is_file_of_data(inputs):
        raise UsageError(
            f"{inputs!r} names a file, and would be sent as these words",
            next=f"Path({inputs!r}) sends the file, [{inputs!r}] the words",
        )
    if content_type is not None:
        raise UsageError(f"content_type says what bytes are, and {_name(inputs)} is no bytes")
    if _is_image(inputs):
        return Body(_png(inputs), PNG)
    if (array := _array(inputs)) is not None:
        return _of_array(array, binary)
    if binary:
        raise UsageError(
            f"{_name(inputs)} is not sent as binary: that is for one array or tensor",
            next="numpy.asarray(…) makes one",
        )
    return Body(_json(_document(inputs)), JSON)


def kind_of(content: bytes, *, name: str = "the bytes") -> str:
    """The content type that the first bytes tell; raises UsageError when they tell none."""
    for magic, kind in _MAGIC:
        if content.startswith(magic):
            return kind
    if content.lstrip()[:1] in (b"{", b"["):
        return JSON
    raise UsageError(
        f"{name} cannot be told apart: no JPEG, PNG, .npy or JSON begins so",
        next='say what they are: content_type="application/octet-stream"',
    )


def is_binary(content: bytes) -> bool:
    """Whether it is an image or an array, by its first bytes."""
    return any(content.startswith(magic) for magic, _ in _MAGIC)


def _is_file_of_data(text: str) -> bool:
    """Whether a string is the name of a file that somebody forgot to make a Path of."""
    try:
        return Path(text).suffix.lower() in _SUFFIXES and Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, a NUL in it
        return False


def _of_file(path: Path, content_type: str | None, binary: bool | None) -> Body:
    if path.suffix.lower() == ".csv" and content_type is None:
        return body_of(_read_csv(path), binary=binary)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # of a NUL in its name
        what = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read: {what}") from error
    if content_type is None and path.suffix.lower() == ".json" and not is_binary(content):
        content_type = JSON
    # What is in it counts, not its name: pictures come with the wrong suffix
    return Body(content, content_type or kind_of(content, name=str(path)))


def _read_csv(path: Path) -> Any:
    try:
        import pandas as pd
    except ImportError as error:
        raise UsageError(
            f"{path} is not read: pandas is not installed here", next="pip install pandas"
        ) from error
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise UsageError(f"{path} cannot be read: {error}") from error


def _array(inputs: Any) -> Any:
    """A NumPy array out of an array, a NumPy scalar or a tensor; None for anything else."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(inputs, torch.Tensor):
        tensor = inputs.detach().cpu()
        # NumPy has no bfloat16; float32 holds every one of its numbers
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(inputs, numpy.ndarray | numpy.generic):
        return numpy.asarray(inputs)
    return None


def _of_array(array: Any, binary: bool | None) -> Body:
    if array.dtype.kind not in "biuf":
        if binary:
            raise UsageError(
                f"an array of {array.dtype} is not sent as binary", next="binary=False"
            )
        return Body(_json({"inputs": array}), JSON)
    if not (array.nbytes >= BINARY_FROM_BYTES if binary is None else binary):
        return Body(_json({"inputs": array}), JSON)
    import numpy as np

    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
    return Body(out.getvalue(), NPY)


def _document(inputs: Any) -> Any:
    """The request's JSON object, with values that `_plain` knows in it."""
    if (table := _table(inputs)) is not None:
        return {"dataframe_split": table}
    if isinstance(inputs, Mapping):
        keys = set(inputs)
        is_whole = len(keys & FORMATS) == 1 and keys <= FORMATS | _BESIDE
        return dict(inputs) if is_whole else {"inputs": dict(inputs)}
    if isinstance(inputs, list | tuple) and inputs and all(map(_is_picture, inputs)):
        return {"inputs": [{"b64": _base64(picture)} for picture in inputs]}
    return {"inputs": inputs}


def _table(inputs: Any) -> dict[str, Any] | None:
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(inputs, pandas.DataFrame | pandas.Series):
        return None
    frame = inputs.to_frame() if isinstance(inputs, pandas.Series) else inputs
    # Column by column: a row of mixed columns would turn its integers into floats
    columns = [column.astype(object).where(column.notna(), None) for _, column in frame.items()]
    names = [str(name) for name in frame.columns]
    return {"columns": names, "data": [list(row) for row in zip(*columns, strict=True)]}


def _is_image(value: Any) -> bool:
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _is_picture(value: Any) -> bool:
    return _is_image(value) or isinstance(value, bytes | bytearray | Path)


def _base64(picture: Any) -> str:
    content = _png(picture) if _is_image(picture) else body_of(picture).content
    return base64.b64encode(content).decode()


def _png(image: Any) -> bytes:
    """Without loss, and with the fastest compression: it goes over the wire once."""
    out = io.BytesIO()
    shown = image if image.mode in _PNG_MODES else image.convert("RGB")
    shown.save(out, format="PNG", compress_level=1)
    return out.getvalue()


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value, default=_plain, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        raise UsageError(
            f"the inputs cannot be sent as JSON: {error}",
            next="JSON has no NaN and no infinity: an array may go as it is, with binary=True",
        ) from error
    except TypeError as error:
        raise UsageError(f"the inputs cannot be sent as JSON: {error}") from error
    except RecursionError as error:
        raise UsageError("the inputs cannot be sent as JSON: they are nested too deep") from error


def _plain(value: Any) -> Any:
    """What json does not know, inside of a request."""
    if (array := _array(value)) is not None:
        return array.tolist()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()  # as MLflow takes a binary column
    if isinstance(value, set | frozenset):
        raise TypeError("a set has no order")
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{_name(value)} is no JSON")


def _name(value: Any) -> str:
    kind = type(value)
    module = kind.__module__.partition(".")[0]
    return kind.__name__ if module == "builtins" else f"{module}.{kind.__name__}"
