"""What can be asked of the registry, and the few things that are written to it."""

from __future__ import annotations

import difflib
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelswitch.effects import effect, tell
from modelswitch.errors import ArchiveError, NotFound, Refused, UsageError
from modelswitch.refs import check_name
from modelswitch.registry.door import Door, patience
from modelswitch.registry.records import (
    ABOUT_TAG,
    ModelVersion,
    RegisteredModel,
    read_model,
    read_version,
)
from modelswitch.registry.source import find_source, folder_digest, has_mlmodel, upload

OUR_TAGS = "modelswitch."
RECIPE_TAG = "modelswitch.recipe"
FOLDER_TAG = "modelswitch.folder"  # SHA-256 of the folder that a version was registered from

_TAG_KEY = re.compile(r"[\w.\-: ]+(/[\w.\-: ]+)*")
_TAG_KEY_LENGTH = 250
_TAG_VALUE_LENGTH = 100_000


class Registry:
    """The registry behind one tracking URI (http or https; anything else is a SettingsError).

    Every method raises RegistryUnreachable when MLflow does not answer, and Refused when it
    does not allow the call.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._door = Door(tracking_uri)

    @property
    def tracking_uri(self) -> str:
        return self._door.tracking_uri

    # What exists

    def ping(self) -> None:
        """Return if an MLflow registry answers here."""
        self._door.quick(lambda client: client.search_registered_models(max_results=1))

    def models(self) -> tuple[RegisteredModel, ...]:
        """All registered models, by name."""
        found = self._door.quick(lambda client: _pages(client.search_registered_models))
        return tuple(sorted((read_model(m) for m in found), key=lambda m: m.name))

    def get_model(self, model: str) -> RegisteredModel:
        """Raises NotFound with the nearest names."""
        try:
            return read_model(self._door.quick(lambda client: client.get_registered_model(model)))
        except NotFound as error:
            raise self._no_model(model) from error

    def versions(self, model: str) -> tuple[ModelVersion, ...]:
        """All versions with their aliases, the newest first, in two calls; raises NotFound."""
        aliases = self.get_model(model).aliases
        return tuple(
            replace(v, aliases=tuple(sorted(a for a, at in aliases.items() if at == v.version)))
            for v in self._search(model)
        )

    def find_version(self, model: str, version: str) -> ModelVersion | None:
        try:
            return read_version(
                self._door.quick(lambda client: client.get_model_version(model, version))
            )
        except NotFound:
            return None

    def get_version(self, model: str, version: str) -> ModelVersion:
        """Raises NotFound with the versions that exist."""
        found = self.find_version(model, version)
        if found is None:
            raise self._no_version(model, version)
        return found

    def resolve_alias(self, model: str, alias: str) -> str:
        """The version an alias stands on; raises NotFound with the aliases that exist."""
        aliases = self.get_model(model).aliases
        if alias not in aliases:
            has = ", ".join(f"{name} ({version})" for name, version in sorted(aliases.items()))
            raise NotFound(
                f"{model} has no alias {alias!r}", next=f"{model} has the aliases {has or '(none)'}"
            )
        return aliases[alias]

    # Register and download

    def register(
        self,
        uri: str,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        recipe: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
        wait_s: int = 30,
    ) -> ModelVersion:
        """Make what `uri` names a version of model `name`, unless it is one already.

        `uri` is runs:/RUN/NAME, models:/m-…, or a folder with an MLmodel file, which is
        uploaded. A version with the same source is returned as it stands (`is_new` false), but
        gets the tags given. Raises UsageError for a name, URI or tag that cannot be, NotFound
        for a run or model that is not there or has no files.
        """
        check_name(name)
        wanted = dict(_check_tags(tags or {}))
        for tag, document in ((RECIPE_TAG, recipe), (ABOUT_TAG, about)):
            if document is not None:
                wanted[tag] = _canonical(document)
        source = find_source(self._door, uri)
        if isinstance(source, Path):
            wanted[FOLDER_TAG] = folder_digest(source)
            before = self._search(name, f"tags.`{FOLDER_TAG}` = '{wanted[FOLDER_TAG]}'")
        else:
            before = self._search(name, f"source_path = {_quoted(source.uri)}")
        if before:
            return self._registered_before(before[0], wanted)

        stored = upload(self._door, source, name) if isinstance(source, Path) else source
        with effect("registry.register", model=name, source=stored.uri):
            self._ensure_model(name)
            created = self._door.call(
                lambda client: client.create_model_version(
                    name,
                    stored.uri,
                    run_id=stored.run_id,
                    model_id=stored.model_id,
                    tags=wanted,
                    await_creation_for=wait_s,
                )
            )
        return replace(read_version(created), is_new=True)

    def download(self, model: str, version: str, into: Path) -> Path:
        """Fetch a version's files; the folder below `into` that holds its MLmodel.

        Raises NotFound for a version that is not there, ArchiveError for one without files.
        """
        self.get_version(model, version)

        def fetch(client: Any) -> Path | None:
            from mlflow import artifacts

            where = {
                "artifact_uri": client.get_model_version_download_uri(model, version),
                "tracking_uri": self.tracking_uri,
            }
            if not has_mlmodel(artifacts.list_artifacts(**where)):
                return None
            into.mkdir(parents=True, exist_ok=True)
            return Path(artifacts.download_artifacts(dst_path=str(into), **where))

        with effect("registry.download", model=model, version=version), patience():
            folder = self._door.call(fetch)
        if folder is None:
            raise ArchiveError(
                f"{model}@{version} has no files: the registry lists it, but its artifact store "
                "holds no MLmodel for it",
                next="log the model again and register that run: "
                f"modelswitch register runs:/RUN_ID/model --name {model}",
            )
        return folder

    # What `marks` writes

    def set_alias(self, model: str, alias: str, version: str) -> None:
        self._door.quick(lambda client: client.set_registered_model_alias(model, alias, version))

    def set_tag(self, model: str, version: str, key: str, value: str) -> None:
        self._door.quick(lambda client: client.set_model_version_tag(model, version, key, value))

    def delete_tag(self, model: str, version: str, key: str) -> None:
        self._door.quick(lambda client: client.delete_model_version_tag(model, version, key))

    def set_stage(self, model: str, version: str, stage: str) -> None:
        """`stage` in MLflow's capitals. Other versions keep theirs."""

        def transition(client: Any) -> None:
            with warnings.catch_warnings():
                # Stages go in a future MLflow; until then people look at them in its UI.
                warnings.simplefilter("ignore", FutureWarning)
                # Never archive_existing_versions: called from several places at the same time
                # it leaves several Production versions, and deadlocks.
                client.transition_model_version_stage(model, version, stage)

        self._door.quick(transition)

    def _search(self, model: str, condition: str = "") -> list[ModelVersion]:
        """The versions that meet a condition, the newest first, without their aliases."""
        asked = f"name = {_quoted(model)}" + (f" and {condition}" if condition else "")
        found = self._door.quick(
            lambda client: _pages(client.search_model_versions, filter_string=asked)
        )
        return sorted((read_version(v) for v in found), key=lambda v: -int(v.version))

    def _ensure_model(self, name: str) -> None:
        asked = f"name = {_quoted(name)}"
        if self._door.quick(lambda client: client.search_registered_models(asked)):
            return
        try:
            self._door.call(lambda client: client.create_registered_model(name))
        except Refused:  # somebody else has created it in between
            self.get_model(name)

    def _registered_before(self, found: ModelVersion, wanted: Mapping[str, str]) -> ModelVersion:
        tell("registry.register", model=found.model, version=found.version, exists=True)
        former = {k: found.tags.get(k) for k, value in wanted.items() if found.tags.get(k) != value}
        for key in former:
            with effect("registry.tag", model=found.model, version=found.version, key=key):
                self.set_tag(found.model, found.version, key, wanted[key])
        return replace(found, tags={**found.tags, **wanted}, former=former)

    def _no_model(self, model: str) -> NotFound:
        names = [m.name for m in self.models()]
        near = difflib.get_close_matches(model, names, n=3) or names[:5]
        return NotFound(
            f"there is no model {model!r} in MLflow at {self.tracking_uri}",
            next=f"there is {', '.join(near)}"
            if near
            else f"register one: modelswitch register runs:/RUN_ID/model --name {model}",
        )

    def _no_version(self, model: str, version: str) -> NotFound:
        has = [v.version for v in self.versions(model)]
        shown = ", ".join(reversed(has[:10]))
        more = f", and {len(has) - 10} older" if len(has) > 10 else ""
        return NotFound(
            f"{model} has no version {version}",
            next=f"{model} has versions {shown or '(none)'}{more}",
        )


def _pages(search: Callable[..., Any], **asked: Any) -> list[Any]:
    """Every page of one of MLflow's searches."""
    answer = search(**asked)
    found = list(answer)
    while answer.token:
        answer = search(**asked, page_token=answer.token)
        found.extend(answer)
    return found


def _quoted(text: str) -> str:
    return f'"{text}"' if "'" in text else f"'{text}'"


def _canonical(document: Mapping[str, Any]) -> str:
    try:
        return json.dumps(
            document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"a recipe or card must be plain JSON: {error}") from error


def _check_tags(tags: Mapping[str, str]) -> Mapping[str, str]:
    for key, value in tags.items():
        if key.startswith(OUR_TAGS):
            raise UsageError(
                f"the tag {key!r} is written by ModelSwitch itself",
                next=f"choose a name that does not begin with {OUR_TAGS!r}",
            )
        if not _TAG_KEY.fullmatch(key) or {".", ".."} & set(key.split("/")):
            raise UsageError(
                f"{key!r} cannot be a tag's name: MLflow takes letters, digits, '_', '-', '.', "
                "':', spaces, and '/' between two of them",
                next="--tag task=classification",
            )
        if len(key) > _TAG_KEY_LENGTH or len(value) > _TAG_VALUE_LENGTH:
            raise UsageError(
                f"the tag {key[:40]!r} is too long: {_TAG_KEY_LENGTH} characters for its name and "
                f"{_TAG_VALUE_LENGTH} for its value at most"
            )
    return tags
