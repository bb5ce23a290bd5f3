"""The sklearn flavor where its inputs are numbers: NumPy goes straight to the pipeline."""

from __future__ import annotations

from modelswitch.archive.flavors.parts import MLMODEL, Parts, VersionFolder, release_of
from modelswitch.archive.flavors.torch import is_number, refuse_no_numbers, refuse_params
from modelswitch.archive.recipe import Recipe
from modelswitch.errors import ArchiveError


def fits(version: VersionFolder) -> bool:
    """One matrix: columns of numbers, of which null may stand in any, or one tensor."""
    inputs = version.signature.inputs
    return (
        version.flavor("sklearn") is not None
        and not version.signature.params
        and all(map(is_number, inputs))
        and (len(inputs) == 1 or all(spec["type"] != "tensor" for spec in inputs))
    )


def find(version: VersionFolder, recipe: Recipe) -> Parts:
    """Raises ArchiveError for what is no scikit-learn model, or takes more than one matrix."""
    flavor = version.asked_flavor("sklearn", "scikit-learn")
    path = version.inside(str(flavor.get("pickled_model", "model.pkl")))
    if not path.is_file():
        raise version.missing(f"there is no {path.name}")
    refuse_no_numbers(version)
    refuse_params(version)
    if not fits(version):
        raise ArchiveError(
            f"{version.name}: its inputs are no one matrix of numbers",
            next='handler = "auto" in the recipe takes the one that fits',
        )
    sklearn_version = release_of(str(flavor.get("sklearn_version", "")))
    pinned = {"scikit-learn": sklearn_version, "pyyaml": ""}
    # skops builds what it knows by itself; what its author trusts beyond that may be anything.
    is_pickle = flavor.get("serialization_format") != "skops"
    pinned |= {"cloudpickle": ""} if is_pickle else {"skops": ""}
    entries = {path.name: path, MLMODEL: version.folder / MLMODEL, **version.code}
    runs_code = is_pickle or bool(flavor.get("skops_trusted_types")) or bool(version.code)
    return Parts("sklearn", entries, None, pinned, runs_code)
