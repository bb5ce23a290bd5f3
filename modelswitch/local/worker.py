"""Starts a worker of TorchServe; torch is imported only where somebody uses it.

TorchServe's worker imports torch to look whether an answer is a tensor, which our handlers never
give: they answer bytes. That import costs every worker 1.4 s and some 350 MB of memory, whatever
it serves. So torch stands aside while TorchServe's modules are imported, and comes when it is asked
for: by a handler, by a model, or by that look at an answer. Workers of archives that are not ours
start as they always did, or their first answer would wait for it.

TorchServe is told to start this in place of Python (`--python`); nothing of it is changed. The
image takes this file alone: it imports nothing but what is in Python.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

WORKER = "model_service_worker.py"
OURS = "modelswitch_protocol.py"  # in a model's folder, which is where its worker starts


class _LaterTorch(ModuleType):
    """In TorchServe's modules it stands for torch, which is imported at its first use."""

    def __getattr__(self, name: str) -> Any:
        import torch

        return getattr(torch, name)


def launcher(python: str) -> str:
    """The text of the program that TorchServe starts in place of `python`."""
    return f'#!/bin/sh\nexec "{python}" -P "{Path(__file__).resolve()}" "$@"\n'


def main(argv: list[str]) -> None:
    """`argv`: what TorchServe gives to Python, the file to run first."""
    if not argv or Path(argv[0]).name != WORKER:
        os.execv(sys.executable, [sys.executable, *argv])  # noqa: S606 - something else's Python
    sys.argv = argv
    sys.path[:] = [folder for folder in sys.path if folder != str(Path(argv[0]).parent)]
    if Path(OURS).exists():
        _import_torchserve()
    runpy.run_path(argv[0], run_name="__main__")


def _import_torchserve() -> None:
    """What is imported here keeps what stands for torch meanwhile."""
    module = f"ts.{Path(WORKER).stem}"
    sys.modules["torch"] = _LaterTorch("torch")
    try:
        importlib.import_module(module)
    finally:
        del sys.modules["torch"]
    del sys.modules[module]


if __name__ == "__main__":
    main(sys.argv[1:])
