from __future__ import annotations

import pytest

from modelswitch.agent import slots


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents look often: a twin loads at once, and hundreds of loads wait for it here."""
    monkeypatch.setattr(slots, "_LOOK_S", 0.01)
    monkeypatch.setattr(slots, "_UNLOAD_LOOK_S", 0.05)
