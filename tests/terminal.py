"""A command line over twins: the product's CLI, facade, moves and agents; no real server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Self

import pytest

from modelswitch.archive.verify import read_document
from modelswitch.builds import Built
from modelswitch.cli.main import run
from modelswitch.cli.session import Session
from modelswitch.client import Prediction
from modelswitch.client.answers import Reply, prediction_of
from modelswitch.client.bodies import body_of
from modelswitch.dry_run import DryRun
from modelswitch.errors import NotFound
from modelswitch.refs import ModelRef
from modelswitch.registry import ABOUT_TAG, RECIPE_TAG, ModelVersion, RegisteredModel
from modelswitch.served import Served
from modelswitch.settings import Settings
from modelswitch.switch import ModelSwitch
from tests.site import Site


def _tags(
    *,
    tags: Mapping[str, str] | None = None,
    recipe: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    documents = {RECIPE_TAG: recipe, ABOUT_TAG: about}
    kept = {tag: json.dumps(dict(d)) for tag, d in documents.items() if d is not None}
    return {**(tags or {}), **kept}


class MemoryRegistry:
    """What marks and verbs ask of a registry, kept in memory."""

    tracking_uri = "http://127.0.0.1:5000"

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], ModelVersion] = {}
        self.aliases: dict[tuple[str, str], str] = {}

    def register(self, uri: str, name: str, **documents: Any) -> ModelVersion:
        number = str(1 + sum(model == name for model, _ in self.known))
        made = ModelVersion(
            model=name,
            version=number,
            run_id="0" * 32,
            source=uri,
            status="READY",
            tags=_tags(**documents),
            aliases=(),
            stage="None",
            description="",
            created_at=datetime(2026, 1, 31, tzinfo=UTC),
        )
        self.known[name, number] = made
        return replace(made, is_new=True)

    def ping(self) -> None:
        """It is here."""

    def get_model(self, model: str) -> RegisteredModel:
        aliases = {alias: at for (name, alias), at in self.aliases.items() if name == model}
        return RegisteredModel(model, "", {}, aliases)

    def models(self) -> tuple[RegisteredModel, ...]:
        return tuple(self.get_model(name) for name in sorted({name for name, _ in self.known}))

    def versions(self, model: str) -> tuple[ModelVersion, ...]:
        found = tuple(self.get_version(m, v) for m, v in self.known if m == model)
        if not found:
            raise NotFound(f"MLflow has no model {model}")
        return found

    def get_version(self, model: str, version: str) -> ModelVersion:
        if (model, version) not in self.known:
            raise NotFound(f"{model} has no version {version}", next="modelswitch models")
        mine = (a for (m, a), at in self.aliases.items() if (m, at) == (model, version))
        return replace(self.known[model, version], aliases=tuple(mine))

    def resolve_alias(self, model: str, alias: str) -> str:
        if (model, alias) not in self.aliases:
            raise NotFound(f"{model} has no alias {alias!r}")
        return self.aliases[model, alias]

    def set_alias(self, model: str, alias: str, version: str) -> None:
        self.aliases[model, alias] = version

    def delete_alias(self, model: str, alias: str) -> None:
        self.aliases.pop((model, alias), None)

    def set_stage(self, model: str, version: str, stage: str) -> None:
        self.known[model, version] = replace(self.known[model, version], stage=stage)

    def set_tag(self, model: str, version: str, key: str, value: str) -> None:
        self._retag(model, version, {**self.known[model, version].tags, key: value})

    def delete_tag(self, model: str, version: str, key: str) -> None:
        tags = dict(self.known[model, version].tags)
        tags.pop(key, None)
        self._retag(model, version, tags)

    def _retag(self, model: str, version: str, tags: Mapping[str, str]) -> None:
        self.known[model, version] = replace(self.known[model, version], tags=tags)


class TwinSwitch(ModelSwitch):
    """The facade, with what would reach real servers and model files turned to the twins."""

    def __init__(self, site: Site, registry: MemoryRegistry, actor: str | None) -> None:
        super().__init__(
            site.settings,
            ledger=site.ledger,
            fleet=site.fleet,
            store=site.store,
            registry=registry,  # type: ignore[arg-type]
            actor=actor,
        )
        self.site = site
        self.client: TwinClient | None = None

    def build(self, ref: ModelRef, **_: Any) -> Built:
        version = self.registry.get_version(ref.name, self.resolve(ref))
        slot = self.site.slot(version.version, ref.name)
        path = self.site.folder / "fetched.mar"
        self.store.fetch(slot.digest, path)
        return Built(slot, read_document(path)[0], path.stat().st_size, reused=False)

    @cached_property
    def dry_run(self) -> DryRun:
        return NothingBuilt(self.rooms, self.versions, self.costs)

    @cached_property
    def served(self) -> Served:
        return Served(self.rooms, self.versions, connect=self._connect)

    def _connect(self, url: str) -> Any:
        self.client = TwinClient(self.site, url)
        return self.client


class NothingBuilt(DryRun):
    def build(self, ref: ModelRef, **_: Any) -> str | None:
        return None


class TwinClient:
    """What the facade uses of a Client, over the twin of server a."""

    def __init__(self, site: Site, url: str) -> None:
        self.site = site
        self.url = url
        self.timeout_s: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held open."""

    def predict(
        self,
        model: str,
        inputs: Any,
        *,
        version: str | None,
        timeout_s: float,
        correlation_id: str,
    ) -> Prediction:
        self.timeout_s = timeout_s
        twin, body = self.site.twins["a"], body_of(inputs)
        answer = self.site.on_loop(lambda: twin.predict(model, body.content, label=version))
        return prediction_of(
            Reply(answer.status, answer.headers, answer.body),
            model=model,
            correlation_id=correlation_id,
            latency_ms=answer.latency_ms,
        )


@dataclass(frozen=True)
class Said:
    """What one line answered."""

    exit: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def data(self) -> Any:
        return self.document["data"]


class Terminal:
    """Runs lines as the program would, on one site."""

    def __init__(self, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
        self.site = site
        self.registry = MemoryRegistry()
        self.session_class: type[Session] = Session
        self.switches: list[TwinSwitch] = []
        self._capsys = capsys

    def __call__(self, *line: str) -> Said:
        self._capsys.readouterr()
        code = run(line, session=self.session_class(open_switch=self._open))
        out, err = self._capsys.readouterr()
        return Said(code, out, err)

    def _open(self, settings: Settings, actor: str | None) -> ModelSwitch:
        self.switches.append(TwinSwitch(self.site, self.registry, actor))
        return self.switches[-1]

    def register(self, *versions: str, model: str = "digits") -> None:
        for _ in versions:
            self.registry.register("runs:/0/model", model)

    def stand(self, *versions: str) -> None:
        """Register versions and promote each in turn."""
        self.register(*versions)
        for version in versions:
            self.site.promote(self.site.slot(version))
