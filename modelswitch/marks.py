"""Marks: how MLflow's alias, stages and tags tell people what is served.

A mirror of the ledger, written last: desired (pure) → observe → diff (pure) → apply (dull).
The primary deployment marks the alias, the stages, the digest and the quarantine; any other one
only its own `modelswitch.at.<deployment>` tag. Somebody else's tags and aliases are never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, NamedTuple

from modelswitch.effects import effect, tell
from modelswitch.errors import NotFound
from modelswitch.line import Line, stage_of
from modelswitch.registry import Registry

ALIAS = "production"
AT_TAG = "modelswitch.at."
DIGEST_TAG = "modelswitch.digest"
QUARANTINED_TAG = "modelswitch.quarantined"

ROUNDS = 3

What = Literal["model", "version", "alias", "stage", "tag"]


class Place(NamedTuple):
    """One place for a mark: the alias, a version's stage, or a version's tag.

    `what` may also be a model or a version itself, which is never written, only missed.
    """

    what: What
    version: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands, or should stand, at each place; a stage in MLflow's capitals.

    `versions`: the desired ones must exist, the observed ones do. A version of which `desired`
    says nothing should have none of our tags, and stage None once a version of ours serves.
    """

    model: str
    deployment: str = ""
    primary: bool = True
    exists: bool = True
    versions: AbstractSet[str] = frozenset()
    values: Mapping[Place, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MarkChange:
    """One mark that is not as it should be. None means: not there."""

    model: str
    place: Place
    wanted: str | None
    found: str | None

    @property
    def what(self) -> str:
        """For people: "stage of digits@3", "alias production of digits"."""
        what, version, key = self.place
        of = f"{self.model}@{version}" if version else self.model
        return f"{what} {key} of {of}" if key else f"{what} of {of}"

    @property
    def is_writable(self) -> bool:
        """Whether MLflow can be told; a model or version that is gone cannot be made again."""
        return self.place.what not in ("model", "version")

    def __str__(self) -> str:
        return f"{self.what}: wanted {self.wanted or 'none'}, found {self.found or 'none'}"


def desired(
    model: str,
    line: Line,
    served_versions: AbstractSet[str],
    quarantined_versions: Mapping[str, str],
    deployment: str,
    *,
    primary: bool,
) -> Marks:
    """The marks of a model whose standing line is `line`.

    `served_versions` are those of this and earlier settled lines, `quarantined_versions` map a
    version to its reason (may be empty).
    """
    values: dict[Place, str] = {}
    in_line = {slot.version for slot in line.slots}
    for version in in_line | set(served_versions):
        stage = stage_of(version, line, served_versions)
        values[Place("tag", version, AT_TAG + deployment)] = str(stage)
        if primary:
            values[Place("stage", version)] = stage.capitalize()
    if primary:
        # Of two archives of one version the nearer to serving is told: it stands first.
        for slot in reversed(line.slots):
            values[Place("tag", slot.version, DIGEST_TAG)] = slot.digest
        for version, reason in quarantined_versions.items():
            values[Place("tag", version, QUARANTINED_TAG)] = reason or "true"
        if line.default is not None:
            values[Place("alias", key=ALIAS)] = line.default.version
    return Marks(model, deployment, primary, versions=in_line, values=values)


def observe(registry: Registry, model: str) -> Marks:
    """The marks as MLflow has them, in two calls; a model it does not have is `exists=False`."""
    try:
        versions = registry.versions(model)
    except NotFound:
        return Marks(model, exists=False)
    values: dict[Place, str] = {}
    for version in versions:
        if version.stage is not None:
            values[Place("stage", version.version)] = version.stage
        if ALIAS in version.aliases:
            values[Place("alias", key=ALIAS)] = version.version
        for key, value in version.tags.items():
            if key.startswith(AT_TAG) or key in (DIGEST_TAG, QUARANTINED_TAG):
                values[Place("tag", version.version, key)] = value
    return Marks(model, versions={v.version for v in versions}, values=values)


def diff(wanted: Marks, found: Marks) -> tuple[MarkChange, ...]:
    """What must change for `found` to show `wanted`, in the order to write it."""
    if not found.exists:
        return (MarkChange(wanted.model, Place("model"), "registered", None),)
    changes = [
        MarkChange(wanted.model, Place("version", version), "registered", None)
        for version in sorted(wanted.versions - found.versions, key=int)
    ]
    for place in sorted(wanted.values.keys() | found.values.keys(), key=_order(wanted)):
        want, have = wanted.values.get(place), found.values.get(place)
        if place.what == "stage":
            if have is None:  # the version is gone, or this MLflow knows no stages any more
                continue
            want = want or "None"
        if want != have and _is_ours(place, wanted, found):
            changes.append(MarkChange(wanted.model, place, want, have))
    return tuple(changes)


def apply(
    registry: Registry,
    changes: Iterable[MarkChange],
    *,
    again: Callable[[], tuple[MarkChange, ...]] | None = None,
) -> tuple[MarkChange, ...]:
    """Write the changes in order, look again, and repeat a little; what remains different.

    Others write here too. `again` says what differs by now: give it where `desired` can be
    derived anew, so that of two late mirrors the older one writes what the newer head says.
    Else the given changes are looked after.
    """
    left = tuple(changes)
    again = again or partial(_unsettled, registry, left)
    for _ in range(ROUNDS):
        writable = [change for change in left if change.is_writable]
        if not writable:
            break
        for change in writable:
            with effect("marks.write", model=change.model, mark=change.what, value=change.wanted):
                try:
                    _write(registry, change)
                except NotFound as error:  # gone meanwhile: looking again will say so
                    tell("marks.gone", model=change.model, mark=change.what, why=error.message)
        left = again()
    return left


def _unsettled(registry: Registry, changes: tuple[MarkChange, ...]) -> tuple[MarkChange, ...]:
    """Those of the changes that MLflow does not show, with what it shows instead."""
    seen = {model: observe(registry, model) for model in {c.model for c in changes}}
    now = (replace(c, found=seen[c.model].values.get(c.place)) for c in changes)
    return tuple(c for c in now if not c.is_writable or c.found != c.wanted)


def _is_ours(place: Place, wanted: Marks, found: Marks) -> bool:
    """Whether this deployment writes that place, on a version that exists."""
    what, version, key = place
    if what == "alias":
        return wanted.values.get(place) in found.versions
    if version not in found.versions:
        return False
    if what == "stage":
        # Until we serve something, what others have in Production may be a site to adopt.
        return place in wanted.values or Place("alias", key=ALIAS) in wanted.values
    if key.startswith(AT_TAG):
        return key == AT_TAG + wanted.deployment
    # The digest of a version that has left the line stays: it names its last archive.
    return place in wanted.values or (wanted.primary and key == QUARANTINED_TAG)


def _order(wanted: Marks) -> Callable[[Place], tuple[int, int, str]]:
    """The alias first, since one write moves it; then what becomes Production; then the rest."""
    rank = {"alias": 0, "stage": 2, "tag": 3}

    def order(place: Place) -> tuple[int, int, str]:
        becomes = place.what == "stage" and wanted.values.get(place) == "Production"
        return (1 if becomes else rank[place.what], int(place.version or 0), place.key)

    return order


def _write(registry: Registry, change: MarkChange) -> None:
    model, (what, version, key), value = change.model, change.place, change.wanted
    if what == "stage":
        registry.set_stage(model, version, value or "None")
    elif what == "alias" and value is not None:
        registry.set_alias(model, key, value)
    elif value is not None:
        registry.set_tag(model, version, key, value)
    else:
        registry.delete_tag(model, version, key)
