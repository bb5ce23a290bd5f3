"""How a version is served (hashed into its archive), and what is said about it (not hashed)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelswitch import handlers
from modelswitch.errors import UsageError


def _current_release(data: dict[str, Any]) -> str:
    return handlers.release(data.get("handler", "torch"))


class Recipe(BaseModel):
    """All that shapes the answers but the number of workers.

    `batch_size` 1: a request never waits for others, so a lone client pays nothing. Larger
    batches wait up to `max_batch_delay_ms` for company and are answered in one forward pass.
    `threads` is per worker: 1, since workers are what uses the other cores. `topk` compares
    golden answers by their k best places along the last axis instead of by every number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    handler: Literal["torch"] = "torch"
    handler_release: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")] = Field(
        default_factory=_current_release
    )
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 1
    max_batch_delay_ms: Annotated[int, Field(ge=1, le=10_000)] = 1
    response_timeout_s: Annotated[int, Field(ge=1, le=3600)] = 30
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    input: Literal["json"] = "json"
    engine: Literal["eager"] = "eager"
    topk: Annotated[int, Field(ge=1, le=1000)] | None = None


class About(BaseModel):
    """What is said about a version and changes no byte of its archive."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    task: str | None = None
    latency_sla_ms: Annotated[float, Field(gt=0)] | None = None
    memory_budget_bytes: Annotated[int, Field(gt=0)] | None = None
    card: str | None = None


def parse_recipe(text: str | bytes, *, source: str = "recipe") -> Recipe:
    """Read a recipe from JSON; raises UsageError naming the key that is wrong."""
    try:
        return Recipe.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise UsageError(
            f"{source}: {where}: {first['msg']}",
            next="keys of a recipe: " + ", ".join(Recipe.model_fields),
        ) from error
