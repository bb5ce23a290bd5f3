"""What tests need of the machine: ports that nobody has, and a look at who is left."""

from __future__ import annotations

import contextlib
import random
import socket

from modelswitch.local import ports


def free_port_base(servers: int = 1) -> int:
    """A base whose derived ports are all free just now."""
    for _ in range(200):
        base = random.randrange(20_000, 32_000, 10)
        if all(is_free(port) for port in ports_of(base, servers)):
            return base
    raise AssertionError("no free ports")


def ports_of(base: int, servers: int = 1) -> list[int]:
    """MLflow's and every server's."""
    of_servers = [p for n in range(servers) for p in ports.server_ports(base, n).listening]
    return [ports.tracking_port(base), *of_servers]


def is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((ports.LOOPBACK, port))
        return True
    return False
