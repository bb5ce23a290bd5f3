"""MLflow's marks as a mirror of the ledger: written last, caught up later, never read as truth.

Only `adopt` reads them the other way round, for a site that had them before it had a ledger.
"""

from __future__ import annotations

from collections.abc import Iterable

from modelswitch import marks
from modelswitch.errors import ModelSwitchError, NotFound, Refused
from modelswitch.ledger import Ledger, quarantine, served_versions
from modelswitch.line import Line
from modelswitch.marks import MarkChange
from modelswitch.overview import Difference
from modelswitch.registry import Registry
from modelswitch.settings import Settings


class Mirror:
    def __init__(self, ledger: Ledger, registry: Registry, settings: Settings) -> None:
        self.ledger = ledger
        self.registry = registry
        self.settings = settings

    def mark(self, model: str) -> None:
        """Bring the marks of one model to what the ledger says; raises RegistryUnreachable."""
        marks.apply(self.registry, self.changes(model), again=lambda: self.changes(model))

    def changes(self, model: str) -> tuple[MarkChange, ...]:
        """What MLflow shows otherwise than the ledger says."""
        rows = self.ledger.history(model)
        head = next((e for e in rows if not e.is_note), None)
        desired = marks.desired(
            model,
            head.head.line if head else Line(),
            served_versions(rows),
            {e.slot.version: e.reason or "true" for e in quarantine(rows) if e.whole_version},
            deployment=self.settings.deployment,
            primary=self.settings.primary,
        )
        return marks.diff(desired, marks.observe(self.registry, model))

    def differences(self, models: Iterable[str]) -> list[Difference]:
        """The same for `diff`: each with what ends it."""
        found: list[Difference] = []
        for model in models:
            try:
                changes = self.changes(model)
            except ModelSwitchError as error:
                away = Difference(
                    "marks", None, "MLflow", "an answer", error.message, "start MLflow"
                )
                return [*found, away]
            found += [
                Difference(
                    "marks",
                    model,
                    f"MLflow: {change.what}",
                    change.wanted or "none",
                    change.found or "none",
                    _fix(model, change),
                )
                for change in changes
            ]
        return found

    def find_production(self, model: str) -> str | None:
        """The version MLflow calls Production, by alias or else by stage."""
        versions = self.registry.versions(model)
        aliased = [v.version for v in versions if marks.ALIAS in v.aliases]
        staged = [v.version for v in versions if v.stage == "Production"]
        if not aliased and len(staged) > 1:
            raise Refused(
                f"{model} has several versions in the stage Production: {', '.join(staged)}",
                next=f'name one: modelswitch adopt {model}@{staged[0]} --reason "…"',
            )
        return next(iter(aliased + staged), None)

    def production(self, model: str) -> str:
        """Like `find_production`; raises NotFound."""
        found = self.find_production(model)
        if found is None:
            raise NotFound(
                f"MLflow calls no version of {model} Production, by alias or by stage",
                next=f'name one: modelswitch adopt {model}@3 --reason "…"; a model that only a '
                "server has is registered first: modelswitch register",
            )
        return found


def _fix(model: str, change: MarkChange) -> str:
    fix = f"modelswitch resume {model} puts it back"
    if change.place.what == "alias":
        fix += f'; modelswitch adopt {model} --reason "…" follows it'
    return fix
