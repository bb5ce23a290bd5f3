"""A model's line: what serves, the ways back, the candidates. Pure: no I/O, no clock.

A stage is derived from the line, never stored beside it, so "two Productions" or "a way back
that is the active one" cannot be written down. `Head` is what a model's latest ledger row says;
its slots and default are what every server should hold.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

DIGEST_PREFIX = "sha256:"
# What pins can carry. `str.isdigit` would take ٣ and ², and 03 would be a second name of 3.
_VERSION = re.compile(r"0|[1-9][0-9]*")
_DIGEST = re.compile(DIGEST_PREFIX + "[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Slot:
    """One archive of one version, warm on every server.

    `digest` is `sha256:` and 64 hex digits; `workers` counts worker processes on each server.
    `pool` keeps a candidate to the servers of one pool; None: those of its model.
    """

    version: str
    digest: str
    workers: int = 1
    device: str = "cpu"
    pool: str | None = None

    def __post_init__(self) -> None:
        if not _VERSION.fullmatch(self.version):
            raise ValueError(f"a version is a number, got {self.version!r}")
        if not _DIGEST.fullmatch(self.digest):
            raise ValueError(f"a digest is sha256:<64 hex>, got {self.digest!r}")
        if self.workers < 1:
            raise ValueError(f"a slot has at least one worker, got {self.workers}")

    @property
    def label(self) -> str:
        """TorchServe's version label: the version and the first 8 digits of the digest."""
        return label_of(self.version, self.digest)

    @property
    def digest8(self) -> str:
        """What tells it from another archive of its version: `3:ab12cd34`."""
        return self.digest.removeprefix(DIGEST_PREFIX)[:8]

    def is_named(self, name: str) -> bool:
        """Whether `name` is its label, its digest, or its version (which others may share)."""
        return name in (self.label, self.digest, self.version)


def label_of(version: str, digest: str) -> str:
    """`3-ab12cd34` for version 3 and digest sha256:ab12cd34…"""
    return f"{version}-{digest.removeprefix(DIGEST_PREFIX)[:8]}"


def version_of(label: str) -> str:
    """`3` for `3-ab12cd34`."""
    return label.partition("-")[0]


def named(model: str, slot: Slot | None, *beside: Slot | None) -> str:
    """`digits@3`; `digits@3 (ab12cd34)` where another archive of version 3 is named beside it."""
    if slot is None:
        return model
    return f"{model}@{version_among(slot.label, *(s.label for s in beside if s))}"


def ref_to(model: str, slot: Slot, *beside: Slot | None) -> str:
    """The same to be typed: `digits@3`, `digits@3:ab12cd34`."""
    return named(model, slot, *beside).replace(" (", ":").removesuffix(")")


def version_among(label: str, *beside: str) -> str:
    """`3` of a label; `3 (ab12cd34)` where one of `beside`, labels too, is of this version."""
    version, _, digest8 = label.partition("-")
    shared = any(version_of(other) == version and other != label for other in beside)
    return f"{version} ({digest8})" if shared else version


class Stage(enum.StrEnum):
    """MLflow's four stages, in lower case."""

    NONE = "none"
    STAGING = "staging"
    PRODUCTION = "production"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True)
class Line:
    """`serving[0]` answers, `serving[1:]` are the ways back, `candidates` wait in Staging.

    `pool` names the servers that hold them.
    """

    serving: tuple[Slot, ...] = ()
    candidates: tuple[Slot, ...] = ()
    pool: str = "default"

    def __post_init__(self) -> None:
        labels = [s.label for s in self.slots]
        if len(set(labels)) != len(labels):
            raise ValueError(f"a slot stands once in a line, got {labels}")
        if any(s.pool is not None for s in self.serving):
            raise ValueError("what serves, or did, stands on every server of its model's pool")

    @property
    def slots(self) -> tuple[Slot, ...]:
        return self.serving + self.candidates

    @property
    def default(self) -> Slot | None:
        return self.serving[0] if self.serving else None

    @property
    def ways_back(self) -> tuple[Slot, ...]:
        return self.serving[1:]

    def find(self, digest: str) -> Slot | None:
        return next((s for s in self.slots if s.digest == digest), None)

    def place(self, slot: Slot) -> str | None:
        """What a slot is here, for people; None where it is not loaded."""
        places = {"serves": self.serving[:1], "way back": self.ways_back}
        places["in Staging"] = self.candidates
        return next(
            (p for p, at in places.items() if any(s.digest == slot.digest for s in at)), None
        )

    def staged(self, slot: Slot, *, max_candidates: int = 1) -> Line:
        """With `slot` as the newest candidate; the oldest beyond `max_candidates` leave."""
        kept = (*_without(self.candidates, slot), slot)[-max_candidates:]
        return replace(self, candidates=kept)

    def promoted(self, slot: Slot, *, ways_back: int = 1, workers: int | None = None) -> Line:
        """With `slot` as what serves, at `workers`, else at no fewer than what it replaces."""
        if workers is not None:
            slot = replace(slot, workers=workers)
        elif self.default is not None and self.default.digest != slot.digest:
            slot = replace(slot, workers=max(slot.workers, self.default.workers))
        slot = replace(slot, pool=None)
        serving = (slot, *_without(self.serving, slot))[: 1 + ways_back]
        return replace(self, serving=serving, candidates=_without(self.candidates, slot))

    def rolled_back(self, history: Iterable[Slot], *, ways_back: int = 1) -> Line:
        """Without what serves; the ways back refilled from `history`, most recent first.

        `history` holds what served in earlier settled lines and may serve again. Raises
        ValueError when there is nothing to go back to.
        """
        leaves = self.default
        if leaves is None:
            raise ValueError("nothing serves")
        serving = list(self.serving[1:])
        for slot in history:
            if slot.digest != leaves.digest and all(slot.digest != s.digest for s in serving):
                serving.append(slot)
        if not serving:
            raise ValueError("no way back")
        if serving[0].version != leaves.version:
            # The version left is quarantined whole by this very row: no recipe of it is a way back.
            serving = [s for s in serving if s.version != leaves.version]
        serving[0] = replace(serving[0], workers=max(serving[0].workers, leaves.workers))
        kept = tuple(serving[: 1 + ways_back])
        gone = {s.digest for s in kept}
        left = tuple(c for c in self.candidates if c.digest not in gone)
        return replace(self, serving=kept, candidates=left)

    def scaled(self, slot: Slot, workers: int) -> Line:
        """With `workers` for `slot`, wherever it stands; no pointer moves."""

        def sized(found: Slot) -> Slot:
            return replace(found, workers=workers) if found.digest == slot.digest else found

        return replace(
            self,
            serving=tuple(map(sized, self.serving)),
            candidates=tuple(map(sized, self.candidates)),
        )

    def retired(self, slot: Slot) -> Line:
        """Without `slot`, which must not be what serves."""
        if self.default is not None and self.default.digest == slot.digest:
            raise ValueError("what serves cannot be retired")
        return replace(
            self,
            serving=_without(self.serving, slot),
            candidates=_without(self.candidates, slot),
        )


def _without(slots: tuple[Slot, ...], slot: Slot) -> tuple[Slot, ...]:
    return tuple(s for s in slots if s.digest != slot.digest)


def stage_of(version: str, line: Line, served_before: Iterable[str] = ()) -> Stage:
    """The stage of a version: derived from the line and from what earlier lines served."""
    if line.default is not None and line.default.version == version:
        return Stage.PRODUCTION
    if any(s.version == version for s in line.candidates):
        return Stage.STAGING
    if any(s.version == version for s in line.ways_back) or version in set(served_before):
        return Stage.ARCHIVED
    return Stage.NONE


class Kind(enum.StrEnum):
    """What a ledger row is: two open kinds, one settled, and notes outside the moves."""

    PREPARED = "prepared"
    COMMITTED = "committed"
    SETTLED = "settled"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Head:
    """What a model's latest row says: the settled line, where it goes, whether it has moved.

    `planned`: it waits for a pull request, so nothing of the target is asked of servers yet.
    """

    kind: Kind
    line: Line
    target: Line | None = None
    planned: bool = False

    def __post_init__(self) -> None:
        if self.kind is Kind.NOTE:
            raise ValueError("a note is never a head")
        if (self.target is None) != (self.kind is Kind.SETTLED):
            raise ValueError(f"a {self.kind} row {'has no' if self.target else 'needs a'} target")
        if self.planned and self.kind is Kind.SETTLED:
            raise ValueError("what is settled waits for nothing")

    @property
    def standing(self) -> Line:
        """The line whose first slot is the default now."""
        if self.planned or self.kind is not Kind.COMMITTED or self.target is None:
            return self.line
        return self.target

    @property
    def pool(self) -> str:
        """The pool whose servers hold the model: one for both lines, but for an empty first one."""
        return (self.line if self.line.slots or self.target is None else self.target).pool

    @property
    def default(self) -> Slot | None:
        return self.standing.default

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Union of both lines' slots; one that stands in both keeps the larger worker count."""
        union: dict[str, Slot] = {}
        target = None if self.planned else self.target
        for slot in self.line.slots + (target.slots if target else ()):
            seen = union.get(slot.label)
            if seen is not None:
                # Wanted in one pool before and in the model's own after: the wider one.
                pool = slot.pool if slot.pool == seen.pool else None
                slot = replace(slot, workers=max(slot.workers, seen.workers), pool=pool)
            union[slot.label] = slot
        return tuple(union.values())

    @property
    def is_open(self) -> bool:
        return self.kind is not Kind.SETTLED

    def prepare(self, target: Line) -> Head:
        """Warm `target` beside what serves; the pointer stays."""
        self._must_be(Kind.SETTLED)
        return Head(Kind.PREPARED, self.line, target)

    def commit(self, target: Line | None = None) -> Head:
        """Move the pointer to the target's default; both lines stay loaded."""
        if target is None:
            self._must_be(Kind.PREPARED)
            target = self.target
        else:
            self._must_be(Kind.SETTLED)
        return Head(Kind.COMMITTED, self.line, target)

    def settle(self, *, done: bool) -> Head:
        """Conclude an open head: at its target when it was proven, else where it came from.

        A prepared head may only be settled at a target that moves no pointer.
        """
        if self.target is None:
            raise ValueError("nothing is open")
        if done and self.kind is Kind.PREPARED and not self.keeps_default:
            raise ValueError("the pointer has not moved: commit first")
        return Head(Kind.SETTLED, self.target if done else self.line)

    def roll_back(self, history: Iterable[Slot], *, ways_back: int = 1) -> Head:
        """One settled row on whatever the head is; it never needs to be undone."""
        return Head(Kind.SETTLED, self.standing.rolled_back(history, ways_back=ways_back))

    @property
    def keeps_default(self) -> bool:
        """Whether line and target have the same slot as default, so that no pointer moves."""
        if self.target is None:
            return True
        ours, theirs = self.line.default, self.target.default
        return (ours and ours.digest) == (theirs and theirs.digest)

    def _must_be(self, kind: Kind) -> None:
        if self.kind is not kind:
            raise ValueError(f"the head is {self.kind}, not {kind}")
