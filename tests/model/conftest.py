"""What was explored is summed up in one line at the end of the run."""

from __future__ import annotations

import pytest

from .checker import Found

_EXPLORED = pytest.StashKey[list[Found]]()


@pytest.fixture
def explored(pytestconfig: pytest.Config) -> list[Found]:
    return pytestconfig.stash.setdefault(_EXPLORED, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if found := config.stash.get(_EXPLORED, []):
        states, steps = sum(f.states for f in found), sum(f.transitions for f in found)
        terminalreporter.write_line(
            f"protocol model: {len(found)} worlds, {states:,} states, {steps:,} transitions, "
            f"depth {max(f.depth for f in found)}, {sum(f.seconds for f in found):.1f} s"
        )
