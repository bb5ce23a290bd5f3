"""The placeholder: registered without workers, it makes a name answer 503.

TorchServe makes the first version registered the default, ready or not. While a model has only
candidates, this stands in that place instead of one of them.
"""

from __future__ import annotations

from pathlib import Path

from modelswitch.archive.layout import MANIFEST
from modelswitch.archive.manifest import encode
from modelswitch.archive.writer import write_small
from modelswitch.handlers import entry_point, files

LABEL = "placeholder"


def write_placeholder(path: Path, model: str) -> None:
    """Write the placeholder archive of a model, the same bytes every time; raises ArchiveError."""
    name = entry_point(LABEL)
    manifest = encode(name=model, version=LABEL, handler=name)
    write_small(path, {name: files(LABEL)[name], MANIFEST: manifest})
