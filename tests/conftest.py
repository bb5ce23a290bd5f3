"""For every suite: how long an example takes says nothing on a machine that is busy."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("modelswitch", deadline=None)
settings.load_profile("modelswitch")
