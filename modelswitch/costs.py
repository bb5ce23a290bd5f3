"""What slots cost on each server, gathered for the rules that weigh a move.

A worker's memory is what the agents measured, else the budget that its version was registered
with, else unknown. MLflow is asked only for what was never measured, and never waited for twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modelswitch.errors import ModelSwitchError, NotFound
from modelswitch.line import Head, Slot
from modelswitch.moves.moves import Fits
from modelswitch.policy.sums import Ask, Machine, memory_sum, refuse_misfit, unknown
from modelswitch.reports import Report
from modelswitch.rooms import Rooms
from modelswitch.versions import Versions


class Costs:
    """Those of one deployment, for one command: what was found is kept."""

    def __init__(self, rooms: Rooms, versions: Versions) -> None:
        self._rooms = rooms
        self._versions = versions
        self._budgets: dict[tuple[str, str], int | None] = {}
        self._threads: dict[str, int | None] = {}
        self._registry_answers = True
        self.memory: str | None = None  # the last sum of memory, on the fullest server
        self.uncounted: tuple[str, ...] = ()  # versions that it left out

    def fits(self, model: str, digest: str, *, overcommit: bool = False) -> Fits:
        """For a move of that archive: raises Refused where a server cannot hold the head."""

        def refuse(head: Head) -> None:
            machines = self.machines(model, head)
            self.memory = memory_sum(machines)
            self.uncounted = unknown(m for m in machines if m.capacity.memory_bytes)
            refuse_misfit(machines, model, digest, overcommit=overcommit)

        return refuse

    def machines(self, model: str, head: Head) -> tuple[Machine, ...]:
        """Each server's slots as pinned now, and with `head` for `model`.

        None of them where `head` asks for what stands.
        """
        before = self._rooms.ledger.snapshot().pinned
        after = {**before, model: head}
        if model in before and _sizes(before[model]) == _sizes(head):
            return ()  # a warm switch: it weighs nothing, and shall not wait
        reports = self._rooms.fleet.reports()
        measured = measured_memory(reports)
        pools = {slot.pool or head.pool for slot in head.slots}
        alike: dict[object, list[Report]] = {}  # a thousand pods of a pool are weighed once
        for report in (r for r in reports if r.pool in pools):
            own = frozenset(measured_memory([report]).items())
            alike.setdefault((report.pool, report.capacity, own), []).append(report)
        return tuple(
            Machine(
                first.server,
                first.capacity,
                self._asks(before, model, first, measured),
                self._asks(after, model, first, measured),
                alike=len(others),
            )
            for first, *others in alike.values()
        )

    def _asks(
        self,
        heads: Mapping[str, Head],
        moved: str,
        report: Report,
        measured: Mapping[tuple[str, str], int],
    ) -> tuple[Ask, ...]:
        return tuple(
            Ask(
                model=name,
                version=slot.version,
                digest=slot.digest,
                workers=slot.workers,
                memory_bytes=report.slot(name, slot.label).memory_bytes
                or measured.get((name, slot.label))
                or self._budget(name, slot.version),
                threads=self._threads_of(slot) if name == moved else None,
                device=slot.device,
            )
            for name, head in sorted(heads.items())
            for slot in head.slots
            if (slot.pool or head.pool) == report.pool
        )

    def _threads_of(self, slot: Slot) -> int | None:
        if slot.digest not in self._threads:
            document = self._versions.document(slot.digest)
            self._threads[slot.digest] = document.recipe.threads if document else None
        return self._threads[slot.digest]

    def _budget(self, model: str, version: str) -> int | None:
        key = model, version
        if key not in self._budgets:
            self._budgets[key] = self._ask_budget(model, version)
        return self._budgets[key]

    def _ask_budget(self, model: str, version: str) -> int | None:
        if not self._registry_answers:
            return None
        try:
            about = self._rooms.registry.get_version(model, version).about
        except NotFound:
            return None
        except ModelSwitchError:  # a promotion of what is built waits for no MLflow
            self._registry_answers = False
            return None
        budget = about.get("memory_budget_bytes")
        return budget if isinstance(budget, int) and budget > 0 else None


def measured_memory(reports: Iterable[Report]) -> dict[tuple[str, str], int]:
    """By model and label: the most that one worker took on any server, in bytes."""
    found: dict[tuple[str, str], int] = {}
    for report in reports:
        for name, model in report.models.items():
            for label, slot in model.slots.items():
                if slot.memory_bytes:
                    key = name, label
                    found[key] = max(found.get(key, 0), slot.memory_bytes)
    return found


def _sizes(head: Head) -> dict[str, tuple[int, str]]:
    return {slot.label: (slot.workers, slot.pool or head.pool) for slot in head.slots}
