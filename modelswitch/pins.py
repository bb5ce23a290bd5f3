"""The pins document: what every server of a deployment should hold, as one canonical text.

Only intent stands here: no names of people, no reasons. The text is reviewed in pull requests
and compared byte for byte, so there is exactly one encoder: `Pins.text`. The JSON schema that
ships beside this module is `schema_text()`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from modelswitch.errors import PinsError, PinsTooNew
from modelswitch.line import Head

SCHEMA = 1
MAX_BYTES = 1_000_000  # a ConfigMap holds less than 1 MiB
MAX_GENERATION = 2**53 - 1  # what JSON's readers agree on; the ledger can count above it
BREAK_GLASS = "break-glass-"  # begins the epoch of pins that were published without the ledger

Label = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]*)-[0-9a-f]{8}$")]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$")]
Device = Annotated[str, Field(pattern=r"^[a-z]+(:[0-9]+)?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PinnedSlot(_Strict):
    digest: Digest
    workers: Annotated[int, Field(ge=1, le=1024, strict=True)]
    device: Device = "cpu"
    # A candidate that is kept to one pool; absent: that of its model.
    pool: Annotated[Name | None, Field(exclude_if=lambda pool: pool is None)] = None


class PinnedModel(_Strict):
    """`default` is null while only candidates stand: the name then answers 503."""

    pool: Name = "default"
    default: Label | None
    back: tuple[Label, ...] = ()
    slots: dict[Label, PinnedSlot]

    @model_validator(mode="after")
    def _consistent(self) -> PinnedModel:
        named = [self.default] if self.default else []
        for label in [*named, *self.back]:
            if label not in self.slots:
                raise ValueError(f"{label} is named but not among the slots")
        if len(set(self.back)) != len(self.back):
            twice = next(label for label in self.back if self.back.count(label) > 1)
            raise ValueError(f"the way back {twice} is named twice")
        if self.default in self.back:
            raise ValueError(f"the way back {self.default} is the default itself")
        for label, slot in self.slots.items():
            if slot.pool is not None and label in (*named, *self.back):
                raise ValueError(f"{label} serves, or did: no pool can keep it to itself")
            if label.partition("-")[2] != slot.digest[7:15]:
                raise ValueError(f"the label {label} is not that of {slot.digest}")
        return self


class Pins(_Strict):
    schema_: Literal[1] = Field(alias="schema")
    deployment: Name
    generation: Annotated[int, Field(ge=0, le=MAX_GENERATION, strict=True)]
    epoch: Name = "main"
    models: dict[Name, PinnedModel] = {}

    @cached_property
    def text(self) -> str:
        """The canonical text: indented, keys sorted, one newline at the end."""
        data = self.model_dump(mode="json", by_alias=True)
        return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def of_pool(self, pool: str) -> dict[str, PinnedModel]:
        """What a server of `pool` holds: its models, and candidates of others kept to it."""
        found: dict[str, PinnedModel] = {}
        for name, model in self.models.items():
            home = model.pool
            slots = {x: s for x, s in model.slots.items() if (s.pool or home) == pool}
            if home == pool:
                found[name] = model.model_copy(update={"slots": slots})
            elif slots:
                found[name] = PinnedModel(pool=pool, default=None, slots=slots)
        return found

    @property
    def is_break_glass(self) -> bool:
        return self.epoch.startswith(BREAK_GLASS)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copied = super().model_copy(update=update, deep=deep)
        for cached in ("text", "sha256"):  # pydantic would hand on what it was for this one
            copied.__dict__.pop(cached, None)
        return copied


def parse(text: str, *, source: str = "pins") -> Pins:
    """Read a pins document; raises PinsError naming the place in it that is wrong."""
    try:
        data: Any = json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise PinsError(f"{source} is not JSON: {error}") from error
    if isinstance(data, dict) and isinstance(data.get("schema"), int) and data["schema"] > SCHEMA:
        raise PinsTooNew(
            f"{source} has schema {data['schema']}, this release knows {SCHEMA}",
            next="upgrade modelswitch here before it is asked to follow these pins",
        )
    try:
        return Pins.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise PinsError(f"{source}: {where or 'document'}: {first['msg']}") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # JSON's readers differ in which of two same keys they take: none may decide what serves.
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{twice} stands twice")
    return found


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of the document, for tools that are not ours."""
    schema = Pins.model_json_schema(by_alias=True)
    for part in (schema, *schema["$defs"].values()):
        for named in part["properties"].values():
            if "patternProperties" in named:  # keys that match no pattern are errors here
                named["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text() -> str:
    """What `schemas/pins.schema.json` must hold."""
    return json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"


def render_model(head: Head) -> PinnedModel:
    """What one model's head row asks of every server."""
    standing = head.standing
    return PinnedModel(
        pool=head.pool,
        default=standing.default.label if standing.default else None,
        back=tuple(s.label for s in standing.ways_back),
        slots={
            s.label: PinnedSlot(
                digest=s.digest,
                workers=s.workers,
                device=s.device,
                pool=None if s.pool == head.pool else s.pool,
            )
            for s in head.slots
        },
    )


def render(
    heads: Mapping[str, Head], *, deployment: str, generation: int, epoch: str = "main"
) -> Pins:
    """The whole document, rendered anew from the ledger's heads."""
    return Pins(
        schema=1,
        deployment=deployment,
        generation=generation,
        epoch=epoch,
        models={name: render_model(head) for name, head in heads.items()},
    )
