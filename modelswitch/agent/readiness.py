"""Whether requests may come to this server, which is not whether it is at the newest pins.

Ready is who answers with what was applied here last, READY and proven. Before the first time
that is all that is pinned; afterwards a default that cannot be loaded leaves what serves in
its place, and candidates and ways back never count.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from modelswitch.agent.model import Model
from modelswitch.pins import PinnedModel

_PATIENCE_S = 15.0  # a server under load may answer its management interface late


class Readiness:
    def __init__(self) -> None:
        self._why: str | None = "its server was not looked at yet"
        self._was_ready = False
        self._applied: set[str] = set()  # models whose default was proven here once
        self._looked_at = time.monotonic()
        self._trouble: str | None = None

    def look(
        self,
        wanted: Mapping[str, PinnedModel],
        models: Mapping[str, Model],
        *,
        missing: str | None,
        unproven: Iterable[str],
    ) -> None:
        """After a pass. `missing` says what a first time waits for; `unproven` as reported."""
        self._looked_at, self._trouble = time.monotonic(), None
        answering = {name for name in wanted if models[name].answers}
        self._applied |= answering
        if self._was_ready:
            asked = {name for name, pinned in wanted.items() if pinned.default is not None}
            silent = sorted((self._applied & asked) - answering)
        else:
            silent = sorted(unproven)
            self._was_ready = not silent and missing is None
            self._why = missing
        if silent:
            self._why = "not READY and proven here: " + ", ".join(silent)
        elif self._was_ready:
            self._why = None

    def fail(self, why: str) -> None:
        """The server could not be looked at."""
        self._trouble = why

    @property
    def why_not(self) -> str | None:
        """One line; None when it is ready."""
        if self._trouble is not None and time.monotonic() - self._looked_at > _PATIENCE_S:
            return self._trouble
        return self._why
