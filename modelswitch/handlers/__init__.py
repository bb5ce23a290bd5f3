"""Handlers: what runs inside a TorchServe worker.

The `modelswitch_*.py` files here are copied into archives as they are and run there, with no
ModelSwitch installed: they import nothing of ours but each other, by their flat names (which no
other package has, since a worker finds them in its working directory). This module only hands
out their text; it is the one thing here that the rest of the package imports.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_COMMON = ("modelswitch_protocol.py", "modelswitch_forms.py", "modelswitch_tensors.py")
_ARRAYS = (*_COMMON, "modelswitch_arrays.py", "modelswitch_images.py")
# Each handler's files; the first is its entry point.
_FILES = {
    "torch": ("modelswitch_torch.py", *_ARRAYS),
    "onnx": ("modelswitch_onnx.py", *_ARRAYS),
    "compiled": ("modelswitch_compiled.py", "modelswitch_cpu.py", *_ARRAYS),
    "sklearn": ("modelswitch_sklearn.py", *_ARRAYS),
    "pyfunc": ("modelswitch_pyfunc.py", "modelswitch_frames.py", *_COMMON),
    "placeholder": ("modelswitch_placeholder.py",),
}
# An engine that a torch model was turned into runs in another handler's files.
_RUNS_IN = {"onnx": "onnx", "int8": "onnx", "compile": "compiled", "bf16": "compiled"}
NAMES = tuple(name for name in _FILES if name not in ("compiled", "placeholder"))


def runtime(handler: str, engine: str = "eager") -> str:
    """The handler whose files run it: `onnx` for a torch model that was converted to ONNX."""
    return _RUNS_IN.get(engine, handler)


def entry_point(handler: str, engine: str = "eager") -> str:
    """The file TorchServe is told to load."""
    return _FILES[runtime(handler, engine)][0]


def files(handler: str, engine: str = "eager") -> dict[str, bytes]:
    """Name and text of each file the handler consists of."""
    folder = Path(__file__).parent
    # A checkout may have turned line ends; an archive's bytes must not depend on that.
    return {
        name: (folder / name).read_bytes().replace(b"\r\n", b"\n")
        for name in _FILES[runtime(handler, engine)]
    }


def release(handler: str, engine: str = "eager") -> str:
    """The handler's release: 12 hex digits of its files' hash, so that none can be forgotten.

    `auto`, which may become any of them, has that of all.
    """
    texts: dict[str, bytes] = {}
    for name in NAMES if handler == "auto" else (handler,):
        texts |= files(name, engine)
    hasher = hashlib.sha256()
    for name, text in sorted(texts.items()):
        hasher.update(f"{name}\0{len(text)}\0".encode() + text)
    return hasher.hexdigest()[:12]
