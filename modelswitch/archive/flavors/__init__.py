"""Flavors: what MLflow wrote of a model, and what of it goes into an archive; a file for each.

Reads MLmodel and the files it names; loads nothing and unpickles nothing. `find` in each file
says whether the version is of its flavor, and raises ArchiveError, with what to do, for one that
is and cannot be served.
"""

from __future__ import annotations

from modelswitch.archive.flavors import onnx, pyfunc, sklearn, torch
from modelswitch.archive.flavors.parts import Parts, VersionFolder
from modelswitch.archive.recipe import Recipe

__all__ = ["Parts", "VersionFolder", "find"]

_FINDERS = {"torch": torch.find, "onnx": onnx.find, "sklearn": sklearn.find, "pyfunc": pyfunc.find}
# The first that fits, where the recipe names none; pyfunc takes whatever else MLflow can load.
_FITS = {"torch": torch.fits, "onnx": onnx.fits, "sklearn": sklearn.fits}


def find(version: VersionFolder, recipe: Recipe) -> Parts:
    """By the recipe's handler, else by the first flavor that fits."""
    handler: str = recipe.handler
    if handler == "auto" and recipe.module is not None:
        handler = "torch"
    if handler == "auto":
        handler = next((name for name, fits in _FITS.items() if fits(version)), "pyfunc")
    return _FINDERS[handler](version, recipe)
