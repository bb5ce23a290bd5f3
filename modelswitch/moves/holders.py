"""Who holds a lease: a process on a machine, so that a dead one is told at once on its own."""

from __future__ import annotations

import getpass
import os
import socket
import uuid


def new_holder() -> str:
    """`host:pid:unique`, which stands in the rows of one command."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def who(holder: str) -> str:
    """For people: the process and the machine."""
    host, _, rest = holder.partition(":")
    return f"process {rest.partition(':')[0]} on {host}"


def is_dead(holder: str) -> bool:
    """Whether the command that took a lease is surely gone: only told on its own machine."""
    host, _, rest = holder.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it runs, as somebody else
        return False
    return False


def os_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return str(os.getuid())
