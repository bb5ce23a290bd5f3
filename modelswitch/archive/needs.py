"""What a version needs of the workers that are to serve it, and what they lack of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelswitch.reports import Environment

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# What a handler's worker can use of a model's requirements. A graph (`.pt2`, TorchScript) brings
# its own code: of all that MLflow wrote down, only libraries that add operators matter.
_USED = {"torch": ("torch", "torchvision", "torchaudio")}


def used_by(handler: str, requirements: Iterable[str], pinned: dict[str, str]) -> tuple[str, ...]:
    """The requirements that matter to `handler`, sorted; `pinned` versions stand over them.

    `requirements` are lines as in pip's requirements.txt, comments and options included.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    found: dict[str, str] = {}
    for line in requirements:
        try:
            requirement = Requirement(line.partition("#")[0].strip())
        except InvalidRequirement:  # an option, a URL or a blank line: nothing we could check
            continue
        found[_folded(requirement.name)] = str(requirement.specifier)
    found |= {name: f"=={version}" for name, version in pinned.items()}
    return tuple(f"{name}{found[name]}" for name in sorted(found) if name in _USED[handler])


def lacking(requirements: Iterable[str], environment: Environment) -> list[str]:
    """One sentence for each requirement the environment does not meet, with what mends it.

    A version pinned with `==` is met by any of the same major and minor number: torch promises
    no more, and no less. An environment that reports no packages is not judged.
    """
    from packaging.requirements import Requirement

    have = {_folded(name): version for name, version in environment.packages.items()}
    if not have:
        return []
    lacks = []
    for line in requirements:
        requirement = Requirement(line)
        wanted = _loosened(requirement)
        version = have.get(_folded(requirement.name))
        if version is None:
            lacks.append(f'it has no {requirement.name}: pip install "{wanted}"')
        elif not wanted.specifier.contains(version, prereleases=True):
            lacks.append(
                f"it has {requirement.name} {version}, the model was logged with "
                f'{requirement.specifier}: pip install "{wanted}"'
            )
    return lacks


def _loosened(requirement: Requirement) -> Requirement:
    """`torch==2.14.1+cu130` becomes `torch==2.14.*`."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    parts = []
    for part in requirement.specifier:
        try:
            version = Version(part.version)
        except InvalidVersion:  # "2.14.*" is loose already
            parts.append(str(part))
            continue
        exact = part.operator == "=="
        parts.append(f"=={version.major}.{version.minor}.*" if exact else str(part))
    loose = Requirement(requirement.name)
    loose.specifier = SpecifierSet(",".join(parts))
    return loose


def _folded(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
