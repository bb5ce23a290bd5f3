"""What each verb would do: nothing is written or built, and what it would refuse is raised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from modelswitch.costs import Costs
from modelswitch.ledger import liftable, quarantine
from modelswitch.line import Slot, Stage
from modelswitch.moves.preview import Preview, Previews, Sizing
from modelswitch.refs import ModelRef
from modelswitch.rooms import Rooms
from modelswitch.versions import Versions

if TYPE_CHECKING:
    from modelswitch.moves.moves import Fits

_NOT_BUILT = "sha256:" + "0" * 64  # stands where there is no digest yet


class DryRun:
    """The verbs of one deployment, played through."""

    def __init__(self, rooms: Rooms, versions: Versions, costs: Costs) -> None:
        self._rooms = rooms
        self._versions = versions
        self._costs = costs

    @cached_property
    def _previews(self) -> Previews:
        return Previews(self._rooms.moves)

    def build(
        self, ref: ModelRef, *, golden: bool = True, recipe: Mapping[str, Any] | None = None
    ) -> str | None:
        """The digest of the archive that would be reused; None where one would be built."""
        from modelswitch.builds import Builds

        number = self._versions.resolve(ref)
        version = self._rooms.registry.get_version(ref.name, number)
        builds = Builds(self._rooms.registry, self._rooms.store, {})
        return builds.find(version, recipe=recipe, golden=golden)

    def promote(
        self,
        ref: ModelRef,
        to: Stage,
        *,
        golden: bool = True,
        recipe: Mapping[str, Any] | None = None,
        pool: str | None = None,
        only_in: str | None = None,
        workers: int | None = None,
        overcommit: bool = False,
    ) -> Preview:
        slot = self._versions.find_slot(ref, recipe)
        digest = slot.digest if slot else self.build(ref, golden=golden, recipe=recipe)
        slot = slot or Slot(self._versions.resolve(ref), digest or _NOT_BUILT)
        slot = replace(slot, pool=only_in)
        preview = self._previews.promote(
            ref.name,
            slot,
            to,
            built=digest is not None,
            pool=pool,
            workers=workers,
            fits=self._fits(ref, slot, overcommit=overcommit),
        )
        return replace(preview, notes=(*preview.notes, *self._weighed(told=overcommit)))

    def scale(self, ref: ModelRef, workers: int, *, overcommit: bool = False) -> Sizing:
        slot = self._versions.scaled(ref)
        fits = self._fits(ref, slot, overcommit=overcommit)
        sizing = self._previews.scale(ref.name, slot, workers, fits=fits)
        return replace(sizing, notes=(*sizing.notes, *self._weighed(told=overcommit)))

    def shrinking_s(self, ref: ModelRef, workers: int) -> float | None:
        """For how long, in seconds, a slot that serves is quiet before it loses workers.

        None where `scale` ends none, where no caller feels it, and where nobody can say.
        """
        slot = self._versions.scaled(ref)
        event = self._rooms.ledger.head(ref.name)
        serves = event.head.default if event else None
        if workers >= slot.workers or serves is None or serves.digest != slot.digest:
            return None
        document = self._versions.document(slot.digest)
        return document.recipe.response_timeout_s if document else None

    def rollback(
        self, model: str, *, leaves: str | None = None, break_glass: bool = False
    ) -> Preview:
        """What serves and what it goes back to; raises NothingToGoBackTo."""
        if break_glass:
            return Previews(self._rooms.moves_without_ledger).break_glass(model, leaves)
        return self._previews.rollback(model, leaves)

    def adopt(self, ref: ModelRef) -> Preview:
        number = ref.version or self._rooms.mirror.production(ref.name)
        return self.promote(replace(ref, version=number), Stage.PRODUCTION)

    def retire(self, ref: ModelRef) -> Preview:
        return self._previews.retire(ref.name, self._versions.loaded(ref))

    def lift(self, ref: ModelRef) -> bool:
        """Whether there is a quarantine that this would end."""
        entries = quarantine(self._rooms.ledger.history(ref.name))
        return liftable(entries, *self._versions.quarantinable(ref))

    def resume(self, model: str | None = None) -> list[Preview]:
        """What is open, and how it would end."""
        return self._previews.resume(model)

    def _fits(self, ref: ModelRef, slot: Slot, *, overcommit: bool) -> Fits:
        return self._costs.fits(ref.name, slot.digest, overcommit=overcommit)

    def _weighed(self, *, told: bool) -> tuple[str, ...]:
        """The sum of memory, where it is wanted, and what is not in it."""
        sums = (f"memory: {self._costs.memory}",) if told and self._costs.memory else ()
        names = self._costs.uncounted
        if not names:
            return sums
        few = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        return (*sums, f"not in the sum of memory, as nobody knows it: {few}")
