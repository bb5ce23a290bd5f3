"""ModelSwitch: the facade. One method a verb; the command line, and other programs, call these.

What is needed is opened when it is needed: a rollback touches neither MLflow nor the store, and
a warm switch proves first and imports MLflow afterwards, for the marks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from modelswitch import overview
from modelswitch import pins as pinning
from modelswitch.errors import (
    AtWork,
    FleetUnreachable,
    ModelSwitchError,
    NotFound,
    NotProven,
    PinsError,
    RegistryUnreachable,
    Superseded,
    UsageError,
    WaitsForApproval,
)
from modelswitch.fleet.protocol import Fleet
from modelswitch.ledger import (
    Entry,
    Event,
    Ledger,
    quarantine,
)
from modelswitch.line import Slot, Stage
from modelswitch.moves import Intent, Moved, Moves
from modelswitch.pins import Pins
from modelswitch.refs import ModelRef
from modelswitch.reports import Report
from modelswitch.rooms import Rooms
from modelswitch.settings import Settings
from modelswitch.versions import Shown, Versions

if TYPE_CHECKING:
    from pathlib import Path

    from modelswitch.archive.contest import Tried
    from modelswitch.archive.recipe import Engine
    from modelswitch.builds import Built
    from modelswitch.costs import Costs
    from modelswitch.dry_run import DryRun
    from modelswitch.local.addresses import Addresses
    from modelswitch.mirror import Mirror
    from modelswitch.registry import ModelVersion, Registry
    from modelswitch.served import Served
    from modelswitch.store import ArchiveStore


_LOOK_S = 2.0  # how often a plan that is waited for is looked at


@dataclass(frozen=True, slots=True)
class Switched:
    """A concluded move and what became of MLflow's marks: `done`, `pending` or `none`."""

    moved: Moved
    marks: str
    marks_error: str | None = None


class ModelSwitch:
    """The verbs of one deployment. Rooms may be handed in; else they are opened from settings."""

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: Ledger | None = None,
        fleet: Fleet | None = None,
        store: ArchiveStore | None = None,
        registry: Registry | None = None,
        actor: str | None = None,
    ) -> None:
        self.settings = settings
        self.actor = actor
        self.rooms = Rooms(settings, ledger=ledger, fleet=fleet, store=store, registry=registry)
        self.versions = Versions(self.rooms)

    @property
    def addresses(self) -> Addresses:
        return self.rooms.addresses

    @property
    def ledger(self) -> Ledger:
        return self.rooms.ledger

    @property
    def fleet(self) -> Fleet:
        return self.rooms.fleet

    @property
    def store(self) -> ArchiveStore:
        return self.rooms.store

    @property
    def registry(self) -> Registry:
        return self.rooms.registry

    @property
    def moves(self) -> Moves:
        return self.rooms.moves

    @property
    def mirror(self) -> Mirror:
        return self.rooms.mirror

    @cached_property
    def costs(self) -> Costs:
        from modelswitch.costs import Costs

        return Costs(self.rooms, self.versions)

    @cached_property
    def dry_run(self) -> DryRun:
        """What the verbs would do."""
        from modelswitch.dry_run import DryRun

        return DryRun(self.rooms, self.versions, self.costs)

    @cached_property
    def served(self) -> Served:
        from modelswitch.served import Served

        return Served(self.rooms, self.versions)

    # What exists

    def register(
        self,
        uri: str,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        recipe: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> ModelVersion:
        """Register a run's model as a version; the same source again gives the same version."""
        return self.registry.register(uri, name, tags=tags, recipe=recipe, about=about)

    def models(self) -> list[overview.ModelRow]:
        """Each model at a glance, those that only MLflow knows too, if it answers."""
        now = datetime.now(UTC)
        reports = self.fleet.reports()
        by_model: dict[str, list[Event]] = {name: [] for name in self._registered()}
        for event in self.ledger.history():
            by_model.setdefault(event.model, []).append(event)
        return [
            overview.model_row(name, rows, reports, now) for name, rows in sorted(by_model.items())
        ]

    def _registered(self) -> list[str]:
        try:
            return [model.name for model in self.registry.models()]
        except RegistryUnreachable:
            return []

    def show(self, ref: ModelRef) -> Shown:
        """All that is known of a version; raises NotFound."""
        return self.versions.show(ref)

    def resolve(self, ref: ModelRef) -> str:
        """The version a reference means now; raises NotFound or UsageError."""
        return self.versions.resolve(ref)

    # Archives

    def build(
        self,
        ref: ModelRef,
        *,
        golden: bool = True,
        recipe: Mapping[str, Any] | None = None,
        data: Path | None = None,
    ) -> Built:
        """The archive of a version: built once for a recipe and handler release, then reused.

        `data`: what int8 is calibrated with, an .npz file with x or a folder of pictures.
        """
        from modelswitch.builds import Builds

        version = self.registry.get_version(ref.name, self.resolve(ref))
        environments = {r.server: r.env for r in self._live()}
        builds = Builds(self.registry, self.store, environments)
        return builds.get(version, recipe=recipe, golden=golden, data=data)

    def engines(
        self,
        ref: ModelRef,
        *,
        engines: Sequence[Engine] = (),
        recipe: Mapping[str, Any] | None = None,
        data: Path | None = None,
    ) -> Iterator[Tried]:
        """Try each engine (none named: all) on this machine, eager first; nothing is stored."""
        from modelswitch.builds import Builds

        version = self.registry.get_version(ref.name, self.resolve(ref))
        builds = Builds(self.registry, self.store, {})
        return builds.contest(version, engines=engines, recipe=recipe, data=data)

    def allowing_pickle(self, ref: ModelRef, recipe: Mapping[str, Any] | None) -> dict[str, Any]:
        """`recipe`, else the one a version was registered with, and a pickled module let in."""
        from modelswitch.archive.recipe import parse_recipe
        from modelswitch.registry import RECIPE_TAG

        if recipe is None:
            version = self.registry.get_version(ref.name, self.resolve(ref))
            text = version.tags.get(RECIPE_TAG, "{}")
            parse_recipe(text, source=f"the tag {RECIPE_TAG} of {version}")
            recipe = json.loads(text)
        return {**recipe, "allow_pickle": True}

    def check_build(self, ref: ModelRef, data: Path | None = None) -> list[str]:
        """Build again, with the recorded golden answer, and tell where the bytes differ."""
        from modelswitch.builds import Builds

        version = self.registry.get_version(ref.name, self.resolve(ref))
        slot = self.versions.find_archive(ref)
        return Builds(self.registry, self.store, {}).check(version, slot, data)

    def _slot(self, ref: ModelRef, *, golden: bool, recipe: Mapping[str, Any] | None) -> Slot:
        """The slot a promotion means: one that is loaded already, else a built one."""
        known = self.versions.find_slot(ref, recipe)
        return known or self.build(ref, golden=golden, recipe=recipe).slot

    # Moves

    def promote(
        self,
        ref: ModelRef,
        to: Stage,
        reason: str,
        *,
        golden: bool = True,
        recipe: Mapping[str, Any] | None = None,
        pool: str | None = None,
        only_in: str | None = None,
        plan: bool = False,
        workers: int | None = None,
        overcommit: bool = False,
    ) -> Switched:
        """Bring a version to Staging or Production; raises NotProven when it was undone.

        `workers` on each server: else one in Staging, and in Production no fewer than what it
        replaces has. Raises Refused when the servers cannot hold them; `overcommit` lets memory
        and cores be exceeded. `pool`: where a model that is not loaded yet shall be. `only_in`:
        the one pool that loads a candidate. `plan`: only write it down, for a pull request;
        `resume` concludes it.
        """
        slot = self._slot(ref, golden=golden, recipe=recipe)
        move = {Stage.STAGING: self.moves.stage, Stage.PRODUCTION: self.moves.promote}.get(to)
        if move is None:
            raise UsageError(
                f"a version is promoted to staging or production, not to {to}",
                next=f"modelswitch retire {ref} takes it out of service",
            )
        if only_in is not None and to is not Stage.STAGING:
            raise UsageError(
                "what serves, serves in the whole pool of its model: only a candidate is kept to "
                "another one",
                next="--to staging --only-in POOL",
            )
        slot = replace(slot, pool=only_in)
        intent = self._intent(reason)
        fits = self.costs.fits(ref.name, slot.digest, overcommit=overcommit)
        try:
            moved = move(ref.name, slot, intent, pool=pool, plan=plan, workers=workers, fits=fits)
            return Switched(moved, "none") if plan else self._marked(moved)
        except ModelSwitchError as error:
            if error.exit == 4 or isinstance(error, Superseded):  # rows were written
                self.moves.announcer.tell(ref.name)
                self.mark(ref.name)
            raise

    def scale(self, ref: ModelRef, workers: int, reason: str, *, overcommit: bool = False) -> Moved:
        """Change the workers of a loaded slot, of what serves for a bare name, on each server.

        Raises Refused as `promote`, NotProven when a server could not start more, Behind when
        one has not come down to fewer yet.
        """
        slot = self.versions.scaled(ref)
        fits = self.costs.fits(ref.name, slot.digest, overcommit=overcommit)
        try:
            return self.moves.scale(ref.name, slot, workers, self._intent(reason), fits=fits)
        finally:
            self.moves.announcer.tell(ref.name)

    def rollback(
        self,
        model: str,
        reason: str,
        *,
        leaves: str | None = None,
        quarantines: bool = True,
        break_glass: bool = False,
    ) -> Switched:
        """Go back by one row; needs neither MLflow nor the store.

        `break_glass`: the database is away; by the published pins, recorded on its return.
        """
        intent = self._intent(reason)
        if break_glass:
            moves = self.rooms.moves_without_ledger
            try:
                moved = moves.break_glass(model, intent, leaves=leaves, quarantines=quarantines)
            finally:
                moves.announcer.tell_break_glass(model)
            return Switched(moved, "pending", "recorded when the database is back")
        try:
            moved = self.moves.rollback(model, intent, leaves=leaves, quarantines=quarantines)
        except ModelSwitchError as error:
            if error.exit == 4 or isinstance(error, FleetUnreachable):
                self.moves.announcer.tell(model)
            if error.exit == 4:  # it stands, though some server is behind
                self.mark(model)
            raise
        return self._marked(moved)

    def retire(self, ref: ModelRef, reason: str) -> Switched:
        """Unload a candidate or a way back; the whole model for a bare name."""
        slot = self.versions.loaded(ref)
        return self._marked(self.moves.retire(ref.name, slot, self._intent(reason)))

    def quarantined(self) -> dict[str, tuple[Entry, ...]]:
        """What may not be promoted, by model."""
        by_model: dict[str, list[Event]] = {}
        for event in self.ledger.history():
            by_model.setdefault(event.model, []).append(event)
        return {m: q for m, rows in sorted(by_model.items()) if (q := quarantine(rows))}

    def lift(self, ref: ModelRef, reason: str) -> Event:
        """End a version's quarantine, or that of the one archive that is named."""
        version, digest = self.versions.quarantinable(ref)
        event = self.moves.lift(ref.name, version, self._intent(reason), digest=digest)
        self.mark(ref.name)
        return event

    def resume(
        self,
        model: str | None = None,
        *,
        now: bool = False,
        outrank: str | None = None,
        give_up: bool = False,
        wait_s: float = 0.0,
        allow_other_changes: bool = False,
    ) -> list[Switched]:
        """Conclude whatever is open, publish what the ledger says, catch the marks up.

        `wait_s`: how long to wait for a plan to be applied, in seconds; `give_up`: end the plan.
        `allow_other_changes`: what Terraform applies may be more than the pins.
        Raises NotFound for a model that no row speaks of, AtWork while a command lives,
        WaitsForApproval while a plan is not applied.
        """
        if allow_other_changes:
            self.rooms.allow_other_changes()
        if outrank is not None:
            self.moves.outrank(self._intent(outrank))
        else:
            self.moves.publish()
        concluded = []
        heads = self.ledger.heads()
        if model is not None and model not in heads:
            raise NotFound(f"{model}: no version was ever staged", next="modelswitch models")
        open_still: AtWork | WaitsForApproval | None = None
        deadline = time.monotonic() + wait_s
        for name in [model] if model else sorted(heads):
            try:
                moved = self._conclude(name, deadline, now=now, give_up=give_up)
            except (AtWork, WaitsForApproval) as error:  # told when the others are concluded
                open_still = open_still or error
                continue
            except NotProven:  # a plan that was applied, and undone
                self.moves.announcer.tell(name)
                self.mark(name)
                raise
            if moved is not None:
                concluded.append(self._marked(moved))
            else:
                self.mark(name)
        if open_still is not None:
            raise open_still
        return concluded

    def _conclude(self, model: str, deadline: float, *, now: bool, give_up: bool) -> Moved | None:
        """Conclude one model, once its plan is applied or `deadline` (monotonic) has passed."""
        while True:
            try:
                return self.moves.conclude(model, self._intent("resume"), now=now, give_up=give_up)
            except WaitsForApproval:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_LOOK_S)

    def adopt(self, ref: ModelRef, reason: str) -> Switched:
        """Bring what MLflow calls Production under the ledger: built, proven, then pinned.

        Without a version the alias `production` names it, else the stage. What somebody loaded
        into a server under this name keeps answering until ours does, and is removed then.
        """
        number = ref.version or self.mirror.production(ref.name)
        slot = self._slot(replace(ref, version=number), golden=True, recipe=None)
        kept = {
            report.server: [f.label for f in report.foreign if f.model == ref.name]
            for report in self._live()
            if any(f.model == ref.name for f in report.foreign)
        }
        intent = Intent(reason, self.actor, {"found_on": kept} if kept else {})
        return self._marked(self.moves.promote(ref.name, slot, intent, action="adopt"))

    def adoptable(self) -> list[str]:
        """Models that MLflow calls Production and the ledger has never heard of."""
        known = self.ledger.heads()
        return [
            model.name
            for model in self.registry.models()
            if model.name not in known and self.mirror.find_production(model.name) is not None
        ]

    def mark(self, model: str) -> str | None:
        """Bring MLflow's marks of one model up; the reason when that must wait."""
        try:
            self.mirror.mark(model)
        except ModelSwitchError as error:
            return error.message
        return None

    def _marked(self, moved: Moved) -> Switched:
        if moved.changed:
            self.moves.announcer.tell(moved.model, {s.name: s.state for s in moved.servers})
        error = self.mark(moved.model)
        return Switched(moved, "pending" if error else "done", error)

    def _intent(self, reason: str) -> Intent:
        return Intent(reason=reason, claimed=self.actor)

    # Reading

    def history(self, model: str | None = None, limit: int | None = None) -> list[Event]:
        """Rows, newest first."""
        rows = self.ledger.history(model, limit)
        if model is not None and not rows:
            raise NotFound(f"no row speaks of {model}", next="modelswitch models")
        return rows

    def diff(self) -> list[overview.Difference]:
        """Where pins, servers and MLflow's marks are not as the ledger says."""
        snapshot = self.ledger.snapshot()
        wanted = self.pins()
        try:
            published = self.fleet.published()
            unreadable = None
        except PinsError as error:
            published, unreadable = None, error.message
        applied = self.moves.publisher.applied(published.pins) if published else None
        if applied is not None:  # nobody has concluded it yet, and servers follow it
            wanted = self.moves.publisher.planned(applied)
        found = overview.differences(
            wanted,
            published.pins if published else None,
            self.fleet.reports(),
            snapshot.heads,
            datetime.now(UTC),
            unreadable=unreadable,
            applied=applied,
            start=self.fleet.how_to_start(),
            forget=self.fleet.how_to_forget,
        )
        return found + self.mirror.differences(snapshot.heads)

    def pins(self) -> Pins:
        """The pins as the ledger says them, whatever is published."""
        snapshot = self.ledger.snapshot()
        return pinning.render(
            snapshot.pinned,
            deployment=self.settings.deployment,
            generation=snapshot.generation,
            epoch=snapshot.epoch,
        )

    def measured_memory(self, model: str) -> dict[str, int]:
        """By label: the most that one worker of it took on any server, in bytes.

        Empty while no server can be asked.
        """
        from modelswitch.costs import measured_memory

        try:
            found = measured_memory(self.fleet.reports())
        except ModelSwitchError:
            return {}
        return {label: most for (name, label), most in found.items() if name == model}

    def reports(self) -> tuple[Report, ...]:
        return self.fleet.reports()

    def published(self) -> Pins | None:
        """The pins that stand; None where none can be read."""
        try:
            published = self.fleet.published()
        except PinsError:
            return None
        return published.pins if published else None

    def forget_server(self, name: str) -> bool:
        """Strike a server off the roster."""
        return self.fleet.forget(name)

    def _live(self) -> list[Report]:
        now = datetime.now(UTC)
        return [r for r in self.fleet.reports() if not r.is_silent(now)]
