"""What a version needs of the workers that are to serve it, and what they lack of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from modelswitch.reports import Environment

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# One library under several names: what is installed under any of them can be imported.
_TWINS = (
    {"xgboost", "xgboost-cpu"},
    {"mlflow", "mlflow-skinny"},
    {"onnxruntime", "onnxruntime-gpu"},
    {"tensorflow", "tensorflow-cpu", "tensorflow-intel"},
    {"opencv-python", "opencv-python-headless", "opencv-contrib-python"},
    {"faiss-cpu", "faiss-gpu"},
    {"psycopg2", "psycopg2-binary"},
)
# What logs a model writes these down; a handler that wants MLflow asks for it itself.
_MLFLOW = {"mlflow", "mlflow-skinny", "mlflow-tracing"}
PYTHON = "python"


def used_by(
    requirements: Iterable[str], needs: Iterable[str] | None, pinned: Mapping[str, str]
) -> tuple[str, ...]:
    """What a worker must have, sorted, in pip's syntax; `python` stands for the interpreter.

    `requirements` are lines as in pip's requirements.txt, of which those of packages in `needs`
    count (None: all). What MLflow wrote down with `==` is what happened to be installed: the
    version is kept for the advice, and any will do. `pinned` stand over those, by the version
    they were written with: they must be of its major and minor number, "" takes any.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    wanted = None if needs is None else {_folded(name) for name in needs}
    found: dict[str, str] = {}
    for line in requirements:
        try:
            requirement = Requirement(line.partition(" #")[0].strip())
        except InvalidRequirement:  # an option, a bare URL or path: nothing we could check
            continue
        name = _folded(requirement.name)
        if name not in _MLFLOW and (wanted is None or name in wanted):
            marker = f"; {requirement.marker}" if requirement.marker else ""
            found[name] = f"{name}{requirement.specifier}{marker}"
    for name, version in pinned.items():
        number = _minor(version) if version else None
        found[_folded(name)] = _folded(name) + (f"=={number}" if number else "")
    return tuple(found[name] for name in sorted(found))


def lacking(requirements: Iterable[str], environment: Environment) -> list[str]:
    """One sentence for each requirement the environment does not meet, with what mends it.

    An environment that reports no packages is not judged.
    """
    from packaging.requirements import Requirement

    have = {_folded(name): version for name, version in environment.packages.items()}
    if not have:
        return []
    lacks = []
    for line in requirements:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate(_markers(environment)):
            continue
        if requirement.name == PYTHON:
            if not _meets(requirement, environment.python):
                lacks.append(
                    f"it has Python {environment.python}, and the model's pickled code was "
                    f"written by {requirement.specifier}: log it again by Python "
                    f"{_minor(environment.python)}"
                )
            continue
        version = _version(have, _folded(requirement.name))
        advice = f'pip install "{requirement.name}{_loose(requirement)}"'
        if version is None:
            lacks.append(f"it has no {requirement.name}: {advice}")
        elif not _meets(requirement, version):
            lacks.append(
                f"it has {requirement.name} {version}, the model was logged with "
                f"{requirement.specifier}: {advice}"
            )
    return lacks


def _version(have: Mapping[str, str], name: str) -> str | None:
    twins = next((group for group in _TWINS if name in group), {name})
    return next((have[twin] for twin in sorted(twins, key=name.__ne__) if twin in have), None)


def _meets(requirement: Requirement, version: str) -> bool:
    """`==2.14.*` and ranges are meant; `==2.14.1` is what happened to be installed."""
    return all(
        part.contains(version, prereleases=True)
        for part in requirement.specifier
        if part.operator != "==" or part.version.endswith(".*")
    )


def _loose(requirement: Requirement) -> str:
    """`==2.14.1+cu130` becomes `==2.14.*`: a build of that very number may not be to be had."""
    parts = [
        f"=={_minor(part.version)}" if part.operator == "==" else str(part)
        for part in requirement.specifier
    ]
    return ",".join(sorted(parts))


def _minor(version: str) -> str:
    """`2.14.*` of `2.14.1+cu130`."""
    from packaging.version import InvalidVersion, Version

    try:
        parsed = Version(version)
    except InvalidVersion:  # "2.14.*" is one already
        return version
    return f"{parsed.major}.{parsed.minor}.*"


def _markers(environment: Environment) -> dict[str, str]:
    """A worker's own, as far as it tells; the rest are this machine's."""
    if not environment.python:
        return {}
    return {
        "python_version": ".".join(environment.python.split(".")[:2]),
        "python_full_version": environment.python,
    }


def _folded(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
