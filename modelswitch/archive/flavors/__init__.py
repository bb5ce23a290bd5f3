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

# The first that fits, where the recipe names none; pyfunc fits whatever MLflow can load.
_FINDERS = {"torch": torch.find, "onnx": onnx.find, "sklearn": sklearn.find, "pyfunc": pyfunc.find}


def find(version: VersionFolder, recipe: Recipe) -> Parts:
    """By the recipe's handler, else by the first flavor that fits."""
    if recipe.handler != "auto":
        return _FINDERS[recipe.handler](version, recipe)
    if recipe.module is not None:
        return torch.find(version, recipe)
    for finder, fits in (
        (torch.find, torch.fits),
        (onnx.find, onnx.fits),
        (sklearn.find, sklearn.fits),
    ):
        if fits(version):
            return finder(version, recipe)
    return pyfunc.find(version, recipe)
