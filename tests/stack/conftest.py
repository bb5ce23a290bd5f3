"""The whole stack, once a session, in a temporary folder on free ports."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelswitch.local.stack import Stack
from modelswitch.settings import Settings
from tests.stack.machine import free_port_base

SERVERS = 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.stack)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """PostgreSQL, MLflow and three TorchServes, each with its agent. Its settings: `.settings`."""
    # Not in pytest's folder: it is root's alone, where PostgreSQL runs as another user
    with tempfile.TemporaryDirectory(prefix="modelswitch-stack-") as root:
        local = {"servers": SERVERS, "port_base": free_port_base(SERVERS)}
        running = Stack(Settings.model_validate({"local": local, "root": root}))
        has_agent = importlib.util.find_spec("modelswitch.__main__") is not None
        running.up(agents=has_agent)
        yield running
        running.down()


@pytest.fixture(scope="session")
def settings(stack: Stack) -> Settings:
    return stack.settings
