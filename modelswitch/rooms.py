"""The rooms of one deployment, each opened when it is first used.

A rollback touches neither MLflow nor the store, and should not pay for them.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from modelswitch.errors import LedgerUnreachable
from modelswitch.fleet import FolderFleet
from modelswitch.fleet.protocol import Fleet
from modelswitch.ledger import Ledger, MemoryLedger
from modelswitch.moves import Moves
from modelswitch.settings import Settings

if TYPE_CHECKING:
    from modelswitch.local.addresses import Addresses
    from modelswitch.mirror import Mirror
    from modelswitch.registry import Registry
    from modelswitch.store import ArchiveStore


class Rooms:
    """Those handed in, else those that the settings name."""

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: Ledger | None = None,
        fleet: Fleet | None = None,
        store: ArchiveStore | None = None,
        registry: Registry | None = None,
    ) -> None:
        self.settings = settings
        given = {"ledger": ledger, "fleet": fleet, "store": store, "registry": registry}
        for name, room in given.items():
            if room is not None:
                self.__dict__[name] = room  # fills the cached property of that name

    @cached_property
    def addresses(self) -> Addresses:
        from modelswitch.local.addresses import addresses

        return addresses(self.settings)

    @cached_property
    def ledger(self) -> Ledger:
        from modelswitch.ledger import open_ledger
        from modelswitch.local.addresses import read_state

        if self.settings.database_url is None and self.settings.fleet.kind == "kubernetes":
            raise LedgerUnreachable(
                "no database is named, so the ledger cannot be asked",
                next="set MODELSWITCH_DATABASE_URL",
            )
        if self.settings.database_url is None and read_state(self.settings) is None:
            raise LedgerUnreachable(
                f"no local stack runs for {self.settings.root}, so its ledger cannot be asked",
                next="modelswitch up; if yours was started in another folder, run this there, or "
                "set database_url",
            )
        return open_ledger(self.addresses.database_url, self.settings.deployment)

    @cached_property
    def fleet(self) -> Fleet:
        if self.settings.fleet.kind == "kubernetes":
            from modelswitch.fleet.kubernetes import KubernetesFleet

            return KubernetesFleet(self.settings)
        return FolderFleet(self.settings.fleet_path)

    def allow_other_changes(self) -> None:
        """From here on, let Terraform's plan touch more than the pins."""
        from modelswitch.fleet.kubernetes import KubernetesFleet

        if isinstance(self.fleet, KubernetesFleet):
            self.fleet.allow_other_changes = True

    @cached_property
    def store(self) -> ArchiveStore:
        from modelswitch.store import FsspecStore

        return FsspecStore(self.settings.store)

    @cached_property
    def registry(self) -> Registry:
        from modelswitch.registry import Registry

        return Registry(self.addresses.tracking_uri)

    @cached_property
    def moves(self) -> Moves:
        return Moves(self.ledger, self.fleet, self.settings)

    @cached_property
    def moves_without_ledger(self) -> Moves:
        """For break-glass: opening the ledger would ask the database."""
        return Moves(MemoryLedger(self.settings.deployment), self.fleet, self.settings)

    @cached_property
    def mirror(self) -> Mirror:
        from modelswitch.mirror import Mirror

        return Mirror(self.ledger, self.registry, self.settings)
