"""A version's folder as MLflow wrote it, and the parts of it that an archive is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelswitch.archive.document import Signature
from modelswitch.archive.recipe import Handler
from modelswitch.errors import ArchiveError

LOG_AGAIN = "log the model again and register that run's model; this version can go"
# MLmodel's own copy in an archive: what a handler reads of it stands there once.
MLMODEL = "MLmodel"
CODE = "code"


@dataclass(frozen=True, slots=True)
class VersionFolder:
    """`name` is said of it in errors; `mlmodel` is its MLmodel file, read."""

    name: str
    folder: Path
    mlmodel: Mapping[str, Any]
    signature: Signature

    def flavor(self, name: str) -> dict[str, Any] | None:
        """What MLmodel says of one flavor, None when it is not of it."""
        found = self.mlmodel["flavors"].get(name)
        return found if isinstance(found, dict) else None

    def asked_flavor(self, name: str, kind: str) -> dict[str, Any]:
        """What MLmodel says of a flavor; raises ArchiveError when it is no `kind` of model."""
        found = self.flavor(name)
        if found is None:
            raise ArchiveError(
                f"{self.name} is no {kind} model, which its recipe's handler asks for",
                next='handler = "auto" in the recipe takes the one that fits',
            )
        return found

    @property
    def pyfunc(self) -> dict[str, Any]:
        return self.flavor("python_function") or {}

    def inside(self, name: str) -> Path:
        """A path that MLmodel names, which must not lead out of the version's folder."""
        path = self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise self.torn(f"its MLmodel file names {name}, which lies outside of it")
        return path

    def files(self, folder: Path, under: str) -> dict[str, Path]:
        """Every file below `folder` by its name in the archive; hidden and cached ones stay."""
        return {
            f"{under}/{path.relative_to(folder).as_posix()}": path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not _is_left_out(path.relative_to(folder))
        }

    @property
    def code(self) -> dict[str, Path]:
        """What `code_paths` brought, which the worker imports from."""
        named = self.pyfunc.get("code")
        return self.files(self.inside(str(named)), CODE) if named else {}

    def torn(self, what: str) -> ArchiveError:
        return ArchiveError(f"{self.name}: {what}", next=LOG_AGAIN)

    def missing(self, what: str) -> ArchiveError:
        return ArchiveError(f"{self.name} has no artifact: {what}", next=LOG_AGAIN)


@dataclass(frozen=True, slots=True)
class Parts:
    """What one handler needs of a version: files by their name in the archive.

    `needs` are the packages that matter of what MLflow wrote down (None: all of them); `pinned`
    are versions that stand over those. `runs_code`: loading it runs code that is in its files.
    """

    handler: Handler
    entries: Mapping[str, Path]
    needs: tuple[str, ...] | None
    pinned: Mapping[str, str] = field(default_factory=dict)
    runs_code: bool = False


def release_of(version: str) -> str:
    """`2.14.1` of `2.14.1+cu130`: a local part says how it was built, not what it understands."""
    return version.partition("+")[0]


def _is_left_out(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)
