"""What stands in the ledger: a draft asks to append, an event is what was appended.

One JSON form serves people, other tools and the hash: `Event.to_json`. The hash of a row is the
SHA-256 of that form's canonical text without `hash` itself, so it covers `prev_hash`, and with
it every row before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from modelswitch.errors import UsageError
from modelswitch.line import Head, Kind, Line, Slot
from modelswitch.refs import check_name

GENESIS = "0" * 64  # prev_hash of a deployment's first row


@dataclass(frozen=True, slots=True)
class Actor:
    """Who it was, as far as each can be known: only `database_role` is the database's word."""

    database_role: str | None = None
    os_user: str | None = None
    claimed: str | None = None

    @property
    def name(self) -> str:
        """The one to show where there is room for one."""
        return self.claimed or self.os_user or self.database_role or "somebody"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A row that a command asks to append.

    `parent` is the seq of the head the command saw, 0 if it saw none, None for a note. `line`
    may be None for a note only; `target` is None when settled. `evidence` is what was known
    before, as JSON. Raises UsageError on text that no database can hold, ValueError on a row
    that cannot be (a note with a parent, a settled row with a target).
    """

    model: str
    parent: int | None
    kind: Kind
    action: str
    line: Line | None = None
    target: Line | None = None
    leaves: Slot | None = None
    holder: str | None = None
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    correlation_id: str = ""
    os_user: str | None = None
    claimed: str | None = None

    def __post_init__(self) -> None:
        # Rows cannot be taken back: what could not be rendered or read must not get in.
        check_name(self.model)
        if (self.kind is Kind.NOTE) != (self.parent is None):
            raise ValueError("a note has no parent, every other row has one")
        if self.kind is not Kind.NOTE:
            head_of(self.kind, self.line, self.target)
        for name in ("action", "holder", "reason", "correlation_id", "os_user", "claimed"):
            _check_text(name, getattr(self, name))
        text = canonical(dict(self.evidence))
        _check_text("evidence", text)
        # What is hashed must be what is read back: tuples become lists, keys become strings.
        object.__setattr__(self, "evidence", json.loads(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One row. `generation` is the seq of the row that last changed the rendered pins."""

    seq: int
    generation: int
    deployment: str
    model: str
    parent: int | None
    kind: Kind
    action: str
    line: Line | None
    target: Line | None
    leaves: Slot | None
    holder: str | None
    actor: Actor
    reason: str
    evidence: Mapping[str, Any]
    correlation_id: str
    at: datetime
    prev_hash: str
    hash: str

    @property
    def head(self) -> Head:
        """What this row says of its model; raises ValueError for a note."""
        head = head_of(self.kind, self.line, self.target)
        return replace(head, planned=True) if head.is_open and self.holder is None else head

    @property
    def is_pinned(self) -> bool:
        """Whether pins speak of its model: not while there is but a plan to take it up."""
        return not self.is_note and (bool(self.parent) or not self.head.planned)

    @property
    def is_note(self) -> bool:
        return self.kind is Kind.NOTE

    def to_json(self) -> dict[str, Any]:
        """Every column, as JSON holds it; `at` is RFC 3339 in UTC."""
        return {
            "seq": self.seq,
            "generation": self.generation,
            "deployment": self.deployment,
            "model": self.model,
            "parent": self.parent,
            "kind": str(self.kind),
            "action": self.action,
            "line": line_to_json(self.line) if self.line else None,
            "target": line_to_json(self.target) if self.target else None,
            "leaves": slot_to_json(self.leaves) if self.leaves else None,
            "holder": self.holder,
            "actor": {
                "database_role": self.actor.database_role,
                "os_user": self.actor.os_user,
                "claimed": self.actor.claimed,
            },
            "reason": self.reason,
            "evidence": dict(self.evidence),
            "correlation_id": self.correlation_id,
            "at": rfc3339(self.at),
            "prev_hash": self.prev_hash,
            "hash": self.hash,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Event:
        """The inverse of `to_json`; raises ValueError, KeyError or TypeError on anything else."""
        line, target, leaves = data["line"], data["target"], data["leaves"]
        return cls(
            **{
                **data,
                "kind": Kind(data["kind"]),
                "line": None if line is None else line_from_json(line),
                "target": None if target is None else line_from_json(target),
                "leaves": None if leaves is None else Slot(**leaves),
                "actor": Actor(**data["actor"]),
                "at": datetime.fromisoformat(data["at"]),
            }
        )

    def computed_hash(self) -> str:
        """What `hash` must be: 64 hex digits."""
        data = self.to_json()
        del data["hash"]
        return hashlib.sha256(canonical(data).encode()).hexdigest()


def head_of(kind: Kind, line: Line | None, target: Line | None) -> Head:
    if line is None:
        raise ValueError(f"a {kind} row says no line")
    return Head(kind, line, target)


def slot_to_json(slot: Slot) -> dict[str, Any]:
    return {
        "version": slot.version,
        "digest": slot.digest,
        "workers": slot.workers,
        "device": slot.device,
    } | ({"pool": slot.pool} if slot.pool else {})


def line_to_json(line: Line) -> dict[str, Any]:
    # The pool only where one was named: rows written before there were pools keep their hashes.
    return {
        "serving": [slot_to_json(s) for s in line.serving],
        "candidates": [slot_to_json(s) for s in line.candidates],
    } | ({"pool": line.pool} if line.pool != "default" else {})


def line_from_json(data: Mapping[str, Any]) -> Line:
    return Line(
        tuple(Slot(**s) for s in data["serving"]),
        tuple(Slot(**s) for s in data["candidates"]),
        data.get("pool", "default"),
    )


def canonical(data: Any) -> str:
    """One JSON text for one value: keys sorted, no blanks, no NaN (ValueError)."""
    return json.dumps(
        data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def rfc3339(at: datetime) -> str:
    """`2026-01-31T12:00:00.000000Z`: always UTC, always six digits, so that texts sort."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _check_text(name: str, text: str | None) -> None:
    # PostgreSQL's text holds no NUL; bytes that were no UTF-8 arrive as lone surrogates.
    if text is None:
        return
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise UsageError(
            f"the {name} {text!r} holds characters that cannot be stored",
            next="give it as plain UTF-8 text",
        )
