"""Archives of registered versions: built once, recorded in the store, reused.

The key of a build is the version, its recipe (the handler's release among it) and whether it
carries a golden request; the store keeps which archive that gave.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelswitch.archive.document import Document
from modelswitch.archive.needs import lacking
from modelswitch.archive.recipe import Engine, Recipe, parse_recipe
from modelswitch.archive.verify import verify
from modelswitch.errors import ArchiveError, NotFound, UsageError
from modelswitch.line import Slot
from modelswitch.registry import RECIPE_TAG, ModelVersion, Registry
from modelswitch.reports import Environment
from modelswitch.store import ArchiveStore, BuildKey

if TYPE_CHECKING:
    from modelswitch.archive.contest import Tried
    from modelswitch.archive.engines.sample import Sample


@dataclass(frozen=True, slots=True)
class Built:
    """An archive of a version. `reused`: it stood in the store already."""

    slot: Slot
    document: Document
    size_bytes: int
    reused: bool


class Builds:
    """`environments` are those of the live servers' workers, by the server's name."""

    def __init__(
        self, registry: Registry, store: ArchiveStore, environments: Mapping[str, Environment]
    ) -> None:
        self.registry = registry
        self.store = store
        self.environments = environments

    def get(
        self,
        version: ModelVersion,
        *,
        recipe: Mapping[str, Any] | None = None,
        golden: bool = True,
        data: Path | None = None,
    ) -> Built:
        """The archive of `version` by `recipe`, or by the recipe it was registered with.

        `data`: what int8 is calibrated with, an .npz file or a folder of pictures.
        """
        wanted = self._recipe(version, recipe)
        sample = _sample(data)
        if sample is not None:
            wanted = _calibrated(wanted, sample)
        key = self._key(version, wanted, golden=golden)
        digest = self.store.find_build(key)
        with tempfile.TemporaryDirectory(prefix="modelswitch-") as name:
            folder = Path(name)
            if digest is not None:
                path = folder / "archive.mar"
                document: Document | None = None
                # What is damaged in the store is built again, and put in its place.
                with suppress(ArchiveError, NotFound):
                    self.store.fetch(digest, path)
                    document = verify(path, digest)
                if document is not None:
                    self._refuse_lacking(version, document)
                    slot = Slot(version.version, digest, device=document.recipe.device)
                    return Built(slot, document, path.stat().st_size, reused=True)
            return self._build(version, wanted, key, folder, golden=golden, sample=sample)

    def contest(
        self,
        version: ModelVersion,
        *,
        recipe: Mapping[str, Any] | None = None,
        engines: Sequence[Engine] = (),
        data: Path | None = None,
    ) -> Iterator[Tried]:
        """Each engine tried on this machine (none named: all), nothing stored."""
        from modelswitch.archive.contest import ENGINES, contest

        wanted, sample = self._recipe(version, recipe), _sample(data)
        with self._source(version) as source:
            yield from contest(source, wanted, engines=engines or ENGINES, sample=sample)

    def find(
        self, version: ModelVersion, *, recipe: Mapping[str, Any] | None = None, golden: bool = True
    ) -> str | None:
        """The digest of the archive that `get` would reuse."""
        wanted = self._recipe(version, recipe)
        return self.store.find_build(self._key(version, wanted, golden=golden))

    def _build(
        self,
        version: ModelVersion,
        recipe: Recipe,
        key: BuildKey,
        folder: Path,
        *,
        golden: bool,
        sample: Sample | None,
    ) -> Built:
        from modelswitch.archive.build import build

        with self._source(version) as source:
            built = build(
                source,
                recipe,
                folder,
                golden=golden,
                environments=self.environments.values(),
                sample=sample,
            )
        self.store.put(built.path, built.digest)
        self.store.record_build(key, built.digest)
        slot = Slot(version.version, built.digest, device=built.document.recipe.device)
        return Built(slot, built.document, built.size_bytes, reused=False)

    def check(
        self, version: ModelVersion, slot: Slot | None, data: Path | None = None
    ) -> list[str]:
        """Build again what `slot`, else the version's recipe, gave; what differs, if anything.

        `data` as for `get`, where that was calibrated with some.
        """
        from modelswitch.archive.build import check

        digest = slot.digest if slot else None
        for golden in (True, False):
            key = self._key(version, self._recipe(version, None), golden=golden)
            digest = digest or self.store.find_build(key)
        if digest is None:
            raise NotFound(
                f"{version} has no archive to check yet", next=f"modelswitch build {version}"
            )
        with tempfile.TemporaryDirectory(prefix="modelswitch-") as name, self._source(version) as s:
            path = Path(name) / (digest.removeprefix("sha256:") + ".mar")
            self.store.fetch(digest, path)
            verify(path, digest)
            return check(path, s, _sample(data))

    def _recipe(self, version: ModelVersion, recipe: Mapping[str, Any] | None) -> Recipe:
        """The recipe the version was registered with, and over it what `recipe` says."""
        source = f"the tag {RECIPE_TAG} of {version}"
        text = version.tags.get(RECIPE_TAG, "{}")
        registered = parse_recipe(text, source=source)
        if recipe is None:
            return registered
        return parse_recipe(json.dumps(_over(json.loads(text), recipe)), source="the recipe")

    def _key(self, version: ModelVersion, recipe: Recipe, *, golden: bool) -> BuildKey:
        return BuildKey(
            model=version.model,
            version=version.version,
            run_id=version.run_id,
            source=version.source,
            recipe=recipe,
            golden=golden,
        )

    def _refuse_lacking(self, version: ModelVersion, document: Document) -> None:
        for server, environment in self.environments.items():
            if lacks := lacking(document.requirements, environment):
                raise ArchiveError(
                    f"{version} cannot run on server {server}: " + "; ".join(lacks),
                    next="run that in the workers' environment and restart them",
                )

    @contextmanager
    def _source(self, version: ModelVersion) -> Iterator[Any]:
        from modelswitch.archive.build import VersionSource

        with tempfile.TemporaryDirectory(prefix="modelswitch-") as name:
            folder = self.registry.download(version.model, version.version, Path(name))
            yield VersionSource(
                model=version.model,
                version=version.version,
                run_id=version.run_id,
                source=version.source,
                folder=folder,
            )


def _sample(data: Path | None) -> Sample | None:
    from modelswitch.archive.engines.sample import read_sample

    return read_sample(data) if data is not None else None


def _calibrated(recipe: Recipe, sample: Sample) -> Recipe:
    if recipe.engine != "int8":
        raise UsageError(
            f"data is what int8 is calibrated with, and the engine is {recipe.engine}",
            next='engine = "int8" in the recipe',
        )
    if recipe.calibration not in (None, sample.digest):
        raise UsageError(
            f"the recipe's calibration is {recipe.calibration}, this data is {sample.digest}",
            next="the other data, or a recipe without calibration",
        )
    return recipe.model_copy(update={"calibration": sample.digest})


def _over(registered: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A faster engine for a model of pictures must not make it forget what a picture is."""
    both = {**registered, **recipe}
    old, new = registered.get("image"), recipe.get("image")
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        both["image"] = {**old, **new}
    if both.get("input") == "json":
        both.pop("image", None)
    return both
