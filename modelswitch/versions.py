"""What a reference means, and what is known of a version: from the ledger, then from MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from modelswitch.errors import (
    ModelSwitchError,
    NotFound,
    Refused,
    RegistryUnreachable,
    UsageError,
)
from modelswitch.ledger import Entry, Event, quarantine, served_versions
from modelswitch.line import Line, Slot, Stage, stage_of
from modelswitch.moves.refusals import refuse_quarantined
from modelswitch.refs import ModelRef, label_meant
from modelswitch.rooms import Rooms

if TYPE_CHECKING:
    from modelswitch.archive.document import Document
    from modelswitch.registry import ModelVersion


@dataclass(frozen=True, slots=True)
class Shown:
    """All that is known of one version; `slots` are its archives in the line or in history."""

    ref: ModelRef
    stage: Stage
    version: ModelVersion | None
    slots: tuple[Slot, ...]
    documents: Mapping[str, Document]
    quarantined: Entry | None
    rows: tuple[Event, ...]
    line: Line  # that stands now: which of the slots serves, is a way back, waits


class Versions:
    """References resolved in one deployment."""

    def __init__(self, rooms: Rooms) -> None:
        self.rooms = rooms

    def find_archive(self, ref: ModelRef) -> Slot | None:
        """The archive of a version that the ledger spoke of last."""
        known = _known(self.rooms.ledger.history(ref.name), ref, self.resolve(ref))
        return known[0] if known else None

    def show(self, ref: ModelRef) -> Shown:
        """All that is known of a version; raises NotFound."""
        rows = self.rooms.ledger.history(ref.name)
        if ref.version is None and ref.stage is None and ref.alias is None:
            ref = replace(ref, stage=Stage.PRODUCTION)
        number = self.resolve(ref)
        known = _known(rows, ref, number)
        if ref.digest8 is not None and not known:
            raise _unknown(ref)
        try:
            version: ModelVersion | None = self.rooms.registry.get_version(ref.name, number)
        except RegistryUnreachable:
            version = None
        except NotFound:
            version = None
            if not known:
                raise
        documents = {s.digest: d for s in known if (d := self.document(s.digest)) is not None}
        head = next((e for e in rows if not e.is_note), None)
        entries = [e for e in quarantine(rows) if e.slot.version == number]
        return Shown(
            ref=ModelRef(ref.name, version=number),
            stage=(
                stage_of(number, head.head.standing, served_versions(rows)) if head else Stage.NONE
            ),
            version=version,
            slots=tuple(known),
            documents=documents,
            quarantined=entries[-1] if entries else None,
            rows=tuple(e for e in rows if _concerns(e, number)),
            line=head.head.standing if head else Line(),
        )

    def resolve(self, ref: ModelRef) -> str:
        """The version a reference means now; raises NotFound or UsageError."""
        if ref.version is not None:
            return ref.version
        if ref.alias is not None:
            try:
                return self.rooms.registry.resolve_alias(ref.name, ref.alias)
            except NotFound as error:
                if (meant := label_meant(ref)) is None:
                    raise
                raise NotFound(error.message, next=f"is {meant} meant?") from error
        if ref.stage is None:
            raise UsageError(f"{ref} names no version", next=f"{ref.name}@3")
        return self._in_stage(ref).version

    def _in_stage(self, ref: ModelRef) -> Slot:
        event = self.rooms.ledger.head(ref.name)
        if event is None:
            raise NotFound(
                f"{ref.name} has no version in {ref.stage}: none was ever staged here",
                next="what there is: modelswitch models",
            )
        line = event.head.standing
        found = {
            Stage.PRODUCTION: line.default,
            Stage.STAGING: line.candidates[-1] if line.candidates else None,
        }.get(ref.stage or Stage.NONE)
        if found is None:
            raise NotFound(
                f"{ref.name} has no version in {ref.stage}",
                next=f"name a version, as in {ref.name}@1; what there is: modelswitch models",
            )
        return found

    def document(self, digest: str) -> Document | None:
        from modelswitch.archive.verify import read_document

        try:
            with self.rooms.store.open(digest) as stream:
                return read_document(stream)[0]
        except ModelSwitchError:
            return None

    def find_slot(self, ref: ModelRef, recipe: Mapping[str, Any] | None) -> Slot | None:
        """The slot that needs no build; raises Quarantined before a build that leads nowhere."""
        if ref.version is None and ref.alias is None and ref.stage is None:
            raise UsageError(f"{ref} names no version", next=f"modelswitch promote {ref.name}@3")
        number = self.resolve(ref)
        event = self.rooms.ledger.head(ref.name)
        line = event.head.line if event else Line()
        loaded = self._meant(replace(ref, version=number, alias=None), line.slots)
        if recipe is None and loaded:
            waiting = [s for s in loaded if s in line.candidates]
            if len(waiting) == 1 and all(s in (*waiting, line.default) for s in loaded):
                return waiting[0]  # beside what serves, only it can be promoted
            return _one(ref, loaded, line)
        rows = self.rooms.ledger.history(ref.name)
        # Whatever archive a build would give: this version's are all refused, or none of them.
        refuse_quarantined(rows, ref.name, Slot(number, "sha256:" + "0" * 64))
        if ref.digest8 is not None:
            known = _known(rows, ref, number)
            if not known:
                raise _unknown(ref)
            return replace(known[0], workers=1, pool=None)
        return None

    def loaded(self, ref: ModelRef) -> Slot | None:
        """The slot that a reference names in the line; None for a bare name.

        Raises NotFound for an archive that was never heard of, Refused for one that is not loaded,
        UsageError where several are meant.
        """
        event = self.rooms.ledger.head(ref.name)
        if event is None:
            raise NotFound(f"{ref.name}: no version was ever staged", next="modelswitch models")
        if ref == ModelRef(ref.name):
            return None
        loaded = self._meant(ref, event.head.line.slots)
        if not loaded:
            self._refuse_unknown(ref)
            raise Refused(f"{ref} is not loaded", next=f"modelswitch show {ref.name}")
        return _one(ref, loaded, event.head.line)

    def scaled(self, ref: ModelRef) -> Slot:
        """The slot whose workers a reference means: what serves, for a bare name.

        Raises as `loaded`, and NotFound where nothing serves.
        """
        slot = self.loaded(ref)
        event = self.rooms.ledger.head(ref.name)
        slot = slot or (event.head.line.default if event else None)
        if slot is None:
            raise NotFound(
                f"nothing of {ref.name} serves", next=f"a candidate is named: {ref.name}@3"
            )
        return slot

    def asked(self, ref: ModelRef) -> Slot:
        """What servers hold under a reference that is no bare name, a move's target too.

        Raises as `loaded`, but NotFound for what is not loaded.
        """
        event = self.rooms.ledger.head(ref.name)
        if event is None:
            raise NotFound(f"{ref.name}: no version was ever staged", next="modelswitch models")
        loaded = self._meant(ref, event.head.slots)
        if not loaded:
            self._refuse_unknown(ref)
            raise NotFound(
                f"{ref} is not loaded",
                next=f'modelswitch promote {ref} --to staging --reason "…"',
            )
        return _one(ref, loaded, event.head.standing)

    def _meant(self, ref: ModelRef, slots: Iterable[Slot]) -> list[Slot]:
        """Of `slots` those that a reference may mean; a stage means one archive."""
        if ref.stage is not None:
            digest = self._in_stage(ref).digest
            return [s for s in slots if s.digest == digest]
        number = self.resolve(ref)
        return [s for s in slots if s.version == number and _fits(s, ref)]

    def quarantinable(self, ref: ModelRef) -> tuple[str, str | None]:
        """The version that a reference names, and the digest where it names one archive.

        Raises UsageError for a stage or a bare name, NotFound for an archive of no row.
        """
        if ref.version is None:
            raise UsageError(f"{ref} names no version", next=f"{ref.name}@3")
        archive = self.find_archive(ref) if ref.digest8 else None
        if ref.digest8 and archive is None:
            raise NotFound(f"no row speaks of {ref}", next="modelswitch quarantine list")
        return ref.version, archive.digest if archive else None

    def _refuse_unknown(self, ref: ModelRef) -> None:
        if ref.digest8 is None or ref.version is None:
            return
        if not _known(self.rooms.ledger.history(ref.name), ref, ref.version):
            raise _unknown(ref)


def _one(ref: ModelRef, slots: list[Slot], line: Line) -> Slot:
    """The only one; raises UsageError that tells which is which."""
    if len(slots) == 1:
        return slots[0]
    names = ", ".join(
        f"{ref.name}@{s.version}:{s.digest8} ({line.place(s) or 'loading'})" for s in slots
    )
    raise UsageError(f"{ref} is loaded with several recipes", next=f"one of: {names}")


def _unknown(ref: ModelRef) -> NotFound:
    return NotFound(f"no archive {ref} is known", next=f"modelswitch show {ref.name}@{ref.version}")


def _known(rows: Iterable[Event], ref: ModelRef, number: str) -> list[Slot]:
    return [s for s in _slots_of(rows) if s.version == number and _fits(s, ref)]


def _fits(slot: Slot, ref: ModelRef) -> bool:
    return ref.digest8 is None or slot.label.endswith(ref.digest8)


def _slots_of(rows: Iterable[Event]) -> list[Slot]:
    """Every slot that any row names, the most recent first, each digest once."""
    found: dict[str, Slot] = {}
    for event in rows:
        for line in (event.target, event.line):
            for slot in line.slots if line else ():
                found.setdefault(slot.digest, slot)
    return list(found.values())


def _concerns(event: Event, version: str) -> bool:
    lines = [line for line in (event.line, event.target) if line]
    named = event.evidence.get("version") == version
    left = event.leaves is not None and event.leaves.version == version
    return named or left or any(s.version == version for line in lines for s in line.slots)
