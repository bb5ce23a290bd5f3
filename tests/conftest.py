"""For every suite: each test leaves logging as it found it, and no example has a deadline."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

# How long an example takes says nothing on a machine that is busy.
settings.register_profile("modelswitch", deadline=None)
settings.load_profile("modelswitch")


@pytest.fixture(autouse=True)
def logging_as_found() -> Iterator[None]:
    """A command run in this process sends all logs where it likes."""
    root, ours = logging.getLogger(), logging.getLogger("modelswitch")
    levels, handlers, config = (root.level, ours.level), list(root.handlers), structlog.get_config()
    yield
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    root.handlers[:] = handlers
    structlog.configure(**config)
