"""Handlers: what runs inside a TorchServe worker.

The `modelswitch_*.py` files here are copied into archives as they are and run there, with no
ModelSwitch installed: they import nothing of ours but each other, by their flat names (which no
other package has, since a worker finds them in its working directory). This module only hands
out their text; it is the one thing here that the rest of the package imports.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

# Each handler's files; the first is its entry point.
_FILES = {
    "torch": ("modelswitch_torch.py", "modelswitch_protocol.py", "modelswitch_tensors.py"),
    "placeholder": ("modelswitch_placeholder.py",),
}


def entry_point(handler: str) -> str:
    """The file TorchServe is told to load."""
    return _FILES[handler][0]


def files(handler: str) -> dict[str, bytes]:
    """Name and text of each file the handler consists of."""
    folder = Path(__file__).parent
    # A checkout may have turned line ends; an archive's bytes must not depend on that.
    return {name: (folder / name).read_bytes().replace(b"\r\n", b"\n") for name in _FILES[handler]}


def release(handler: str) -> str:
    """The handler's release: 12 hex digits of its files' hash, so that none can be forgotten."""
    hasher = hashlib.sha256()
    for name, text in sorted(files(handler).items()):
        hasher.update(f"{name}\0{len(text)}\0".encode() + text)
    return hasher.hexdigest()[:12]
