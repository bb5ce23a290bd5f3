"""Leases: who is at work on a model. Courtesy only; the compare-and-swap is what keeps safe."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog

from modelswitch.errors import ModelSwitchError

if TYPE_CHECKING:
    from modelswitch.ledger.protocol import Ledger

LEASE_S = 15
RENEW_S = 5.0

log = structlog.get_logger("modelswitch.ledger")


@dataclass(frozen=True, slots=True)
class Lease:
    """`holder` is what the rows of its command carry; times are the database's."""

    holder: str
    model: str
    renewed_at: datetime
    expires_at: datetime


class LeaseKeeper:
    """Renews a holder's leases in a daemon thread while the block runs, then releases them.

    The lease is taken before, with `take_lease`. A database that is away stops nobody here:
    the next beat tries again, and a lease that is not renewed ends by itself.
    """

    def __init__(self, ledger: Ledger, holder: str, *, every_s: float = RENEW_S) -> None:
        self._ledger = ledger
        self._holder = holder
        self._every_s = every_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        try:
            self._ledger.release(self._holder)
        except ModelSwitchError as away:
            log.info("lease.release", holder=self._holder, failed=away.message)

    def _beat(self) -> None:
        while not self._done.wait(self._every_s):
            try:
                held = self._ledger.renew(self._holder)
            except ModelSwitchError as away:
                log.info("lease.renew", holder=self._holder, failed=away.message)
                continue
            if not held:
                log.warning("lease.lost", holder=self._holder)
                return
