"""What the registry says about a model and a version, without MLflow's own types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

ABOUT_TAG = "modelswitch.about"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version. `stage` is MLflow's ("Production"); None where its client knows no stages.

    `aliases` are filled by `Registry.versions` and `get_version`. `is_new` is true only of what
    `register` has just created; `former` are tags that it has changed, as they were.
    """

    model: str
    version: str
    run_id: str | None
    source: str
    status: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    stage: str | None
    description: str
    created_at: datetime
    is_new: bool = False
    former: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def about(self) -> Mapping[str, Any]:
        """What was said of it at `register`; empty for nothing, and for somebody's own text."""
        try:
            found = json.loads(self.tags.get(ABOUT_TAG, "{}"))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A registered model; `aliases` are alias → version."""

    name: str
    description: str
    tags: Mapping[str, str]
    aliases: Mapping[str, str]


def read_version(found: Any) -> ModelVersion:
    """Out of MLflow's entity."""
    return ModelVersion(
        model=found.name,
        version=str(found.version),  # an int from some stores
        run_id=found.run_id or None,
        source=found.source or "",
        status=found.status,
        tags=dict(found.tags),
        aliases=tuple(sorted(found.aliases)),
        stage=getattr(found, "current_stage", None),
        description=found.description or "",
        created_at=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
    )


def read_model(found: Any) -> RegisteredModel:
    """Out of MLflow's entity."""
    aliases = {alias: str(version) for alias, version in found.aliases.items()}
    return RegisteredModel(found.name, found.description or "", dict(found.tags), aliases)
