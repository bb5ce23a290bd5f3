"""The manifest TorchServe reads, derived from the document and from nothing else.

Its field names are those of torch-model-archiver's manifest components (0.12). It cannot stand
in the document's list, since the label in it is taken from the document's digest.
"""

from __future__ import annotations

import json

from modelswitch.archive.document import Document
from modelswitch.handlers import entry_point

ARCHIVER_VERSION = "0.12.0"  # whose format this is
CREATED_ON = "01/01/1980 00:00:00"  # fixed: a date would make every build another archive
_WEIGHTS = ("model.pt2", "model.pt", "model.onnx")


def manifest_of(document: Document, digest: str) -> bytes:
    """`MAR-INF/MANIFEST.json` of the archive whose document and digest are given."""
    weights = next((name for name in _WEIGHTS if name in document.entries), None)
    return encode(
        name=document.identity.model,
        version=document.label(digest),
        handler=entry_point(document.recipe.handler, document.recipe.engine),
        weights=weights,
    )


def encode(*, name: str, version: str, handler: str, weights: str | None = None) -> bytes:
    model = {"modelName": name, "handler": handler, "modelVersion": version}
    if weights:
        model["serializedFile"] = weights
    manifest = {
        "createdOn": CREATED_ON,
        "runtime": "python",
        "model": model,
        "archiverVersion": ARCHIVER_VERSION,
    }
    return json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n"
