"""Which port is whose: every port of the stack follows from one base and the server's place."""

from __future__ import annotations

from dataclasses import dataclass

from modelswitch.errors import UsageError

LOOPBACK = "127.0.0.1"
STEP = 10  # between two servers
_LOWEST = 1024
_HIGHEST = 60_000
_TRACKING_OFFSET = -3080


@dataclass(frozen=True, slots=True)
class ServerPorts:
    """One TorchServe's ports. `worker` numbers its workers' sockets, which are no TCP ports."""

    inference: int
    management: int
    metrics: int
    grpc_inference: int
    grpc_management: int
    worker: int

    @property
    def listening(self) -> tuple[int, ...]:
        return (
            self.inference,
            self.management,
            self.metrics,
            self.grpc_inference,
            self.grpc_management,
        )

    @property
    def inference_url(self) -> str:
        return f"http://{LOOPBACK}:{self.inference}"

    @property
    def management_url(self) -> str:
        return f"http://{LOOPBACK}:{self.management}"

    @property
    def metrics_url(self) -> str:
        return f"http://{LOOPBACK}:{self.metrics}"


def server_name(place: int) -> str:
    """`a` for the first, `b` for the second …"""
    return chr(ord("a") + place)


def server_ports(base: int, place: int) -> ServerPorts:
    """8080, 8081, 8082, 7070, 7071 for base 8080 and the first; ten more for each next."""
    _check(base)
    own = base + STEP * place
    return ServerPorts(own, own + 1, own + 2, own - 1010, own - 1009, own + 920)


def tracking_port(base: int) -> int:
    """MLflow's: 5000 for base 8080."""
    _check(base)
    return base + _TRACKING_OFFSET


def tracking_url(base: int) -> str:
    return f"http://{LOOPBACK}:{tracking_port(base)}"


def _check(base: int) -> None:
    lowest = _LOWEST - _TRACKING_OFFSET
    if not lowest <= base <= _HIGHEST:
        raise UsageError(
            f"the port base {base} is out of range ({lowest} to {_HIGHEST}): MLflow's port lies "
            f"{-_TRACKING_OFFSET} below it",
            next="modelswitch up --port-base 8080",
        )
