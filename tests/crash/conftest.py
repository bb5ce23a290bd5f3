from __future__ import annotations

import pytest

from modelswitch.agent import slots
from modelswitch.agent.slots import Slots


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents look often and drain shortly: a twin loads at once, and hundreds of loads wait."""
    unload = Slots.unload

    async def unload_soon(self: Slots, model: str, label: str, response_timeout_s: float) -> None:
        await unload(self, model, label, min(response_timeout_s, 0.1))

    monkeypatch.setattr(Slots, "unload", unload_soon)
    monkeypatch.setattr(slots, "_LOOK_S", 0.01)
    monkeypatch.setattr(slots, "_UNLOAD_LOOK_S", 0.05)
