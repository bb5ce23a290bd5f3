"""`compile` and `bf16`: a torch model compiled by AOTInductor for the processor that builds it.

Needs a C++ compiler here and none where it is served. What it is compiled for is written into
the archive, and a worker on another kind of processor refuses it with a clear word.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from modelswitch.archive.engines.failures import as_not_converted
from modelswitch.archive.engines.program import export
from modelswitch.handlers.modelswitch_cpu import features

if TYPE_CHECKING:
    import torch

    from modelswitch.archive.engines import Work

_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def convert(work: Work) -> Mapping[str, Path]:
    """`model.pt2`, the package, and `engine.json`: processor and inputs. Raises ArchiveError."""
    program = export(work, half=work.recipe.engine == "bf16")
    package, facts = work.folder / "model.pt2", work.folder / "engine.json"
    with as_not_converted(work, "AOTInductor"), _fresh_cache():
        from torch import _inductor

        _inductor.aoti_compile_and_package(program, package_path=str(package))
    made = {"cpu": features(), "inputs": _inputs(program)}
    facts.write_text(json.dumps(made, sort_keys=True), encoding="utf-8")
    return {package.name: package, facts.name: facts}


def _inputs(program: torch.export.ExportedProgram) -> list[dict[str, object]]:
    """Type and shape of each, -1 for any length."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    values = [nodes[name].meta["val"] for name in program.graph_signature.user_inputs]
    return [
        {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": [n if isinstance(n, int) else -1 for n in value.shape],
        }
        for value in values
    ]


@contextmanager
def _fresh_cache() -> Iterator[None]:
    """A package made out of a cache that others had used was once seen to answer wrong."""
    before = os.environ.get(_CACHE_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="modelswitch-") as folder:
        os.environ[_CACHE_VARIABLE] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[_CACHE_VARIABLE]
            else:
                os.environ[_CACHE_VARIABLE] = before
