"""For every suite: logging is left as it was found, no example has a deadline, one real stack.

The stack is started once a session, when a test first asks for it, in a temporary folder on free
ports.
"""

from __future__ import annotations

import logging
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings as hypothesis_settings

from modelswitch.local.stack import Stack
from modelswitch.settings import Settings, load
from tests.stack.deployment import Deployment
from tests.stack.machine import free_port_base
from tests.stack.models import register_models

SERVERS = 3
# A handler that hangs at load is given up after load_s: long enough for three loads at once.
SETTINGS = """
[local]
servers = {servers}
port_base = {port_base}
[timeouts]
load_s = 45
prove_s = 30
unload_s = 20
"""

# Started in the background of a shell, Ctrl-C would be ignored here and in every child.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing on a machine that is busy.
hypothesis_settings.register_profile("modelswitch", deadline=None)
hypothesis_settings.load_profile("modelswitch")


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


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """PostgreSQL, MLflow and three TorchServes, each with its agent. Its settings: `.settings`."""
    # Not in pytest's folder: it is root's alone, where PostgreSQL runs as another user
    with tempfile.TemporaryDirectory(prefix="modelswitch-stack-") as root:
        ports = free_port_base(SERVERS)
        text = SETTINGS.format(servers=SERVERS, port_base=ports)
        (Path(root) / "modelswitch.toml").write_text(text)
        running = Stack(load(start=Path(root)))
        running.up()
        yield running
        running.down()


@pytest.fixture(scope="session")
def settings(stack: Stack) -> Settings:
    return stack.settings


@pytest.fixture(scope="session")
def deployment(stack: Stack) -> Iterator[Deployment]:
    """The shared stack with models in its registry: `tiny` 1 to 3 and TorchScript's `script` 1."""
    found = Deployment(stack)
    register_models(found.tracking_uri)
    yield found
    found.switch.ledger.close()
