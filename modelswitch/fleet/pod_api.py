"""The API server as one pod sees it: plain requests over lightkube's configuration.

lightkube reads kubeconfig or service account, proves the server and renews the token on a 401.
Its own watch is not used: it reopens without a pause and knows neither bookmarks nor an end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from modelswitch.errors import FleetUnreachable
from modelswitch.fleet.apiserver import configuration, reached
from modelswitch.fleet.protocol import Calls
from modelswitch.settings import Fleet

if TYPE_CHECKING:
    from httpx2 import Response

TIMEOUT_S = 10.0
_BURST = 5  # requests that may follow each other at once
_REFILL_S = 1.0  # until another one may
_MOST_PAUSE_S = 30.0
# From one heartbeat to the next: a handshake costs both sides more than the report.
_IDLE_S = 90.0
_WHAT = "the API server cannot be asked"
# A watch says nothing for minutes: the kernel finds out within one that nobody is there.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


class PodApi:
    """Requests in one namespace. Raises SettingsError where no cluster is configured.

    Each raises FleetUnreachable when nobody answers; who gives up then counts it in `calls`.
    """

    def __init__(self, fleet: Fleet) -> None:
        import httpx2
        from lightkube.config.client_adapter import user_auth, verify_cluster
        from lightkube.config.models import User

        config = configuration(fleet)
        cluster, user = config.cluster, config.user or User()
        self.namespace = fleet.namespace or config.namespace
        self.calls = Calls()
        self._allowance = float(_BURST)
        self._allowed_at = time.monotonic()
        # trust_env: a proxy of the environment must not stand between a pod and its API server
        proven = verify_cluster(cluster, user, config.abs_file, trust_env=False)
        self._http = httpx2.AsyncClient(
            base_url=cluster.server,
            auth=user_auth(user),
            timeout=TIMEOUT_S,
            transport=httpx2.AsyncHTTPTransport(
                verify=proven,
                trust_env=False,
                limits=httpx2.Limits(keepalive_expiry=_IDLE_S),
                socket_options=_socket_options(),
            ),
        )

    async def get(self, kind: str, **params: Any) -> Response:
        return await self._send("GET", kind, params=params)

    async def patch(self, path: str, body: Mapping[str, Any]) -> Response:
        """A strategic merge patch."""
        headers = {"Content-Type": "application/strategic-merge-patch+json"}
        return await self._send("PATCH", path, content=json.dumps(body), headers=headers)

    @contextlib.asynccontextmanager
    async def stream(
        self, kind: str, *, silence_s: float, **params: Any
    ) -> AsyncIterator[Response]:
        """A watch. `silence_s`: after so long without a word, or an end, it counts as dead."""
        from httpx2 import Timeout

        await self._may()
        with reached(_WHAT):
            async with self._http.stream(
                "GET",
                self._url(kind),
                params={"watch": "true", **params},
                timeout=Timeout(TIMEOUT_S, read=silence_s),
            ) as answer:
                yield answer

    async def close(self) -> None:
        await self._http.aclose()

    @staticmethod
    def refused(answer: Response, what: str) -> FleetUnreachable:
        """The error to raise for an answer that is not a success, once it was read."""
        try:
            said = str(answer.json()["message"])
        except (ValueError, KeyError, TypeError):
            said = answer.text[:200]
        hint = "the agent's Role: kubectl auth can-i --list" if answer.status_code == 403 else None
        return FleetUnreachable(f"{what}: HTTP {answer.status_code} {said}", next=hint)

    async def _send(self, method: str, path: str, **kwargs: Any) -> Response:
        await self._may()
        with reached(_WHAT):
            return await self._http.request(method, self._url(path), **kwargs)

    def _url(self, path: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/{path}"

    async def _may(self) -> None:
        """Wait until another request is due: a thousand pods must not be a storm."""
        now = time.monotonic()
        self._allowance += (now - self._allowed_at) / _REFILL_S
        self._allowance = min(self._allowance, _BURST) - 1
        self._allowed_at = now
        self.calls.requests += 1
        if self._allowance < 0:
            await asyncio.sleep(-self._allowance * _REFILL_S)


def _socket_options() -> list[tuple[int, int, int]]:
    tcp = [(n, value) for name, value in _KEEP_ALIVE.items() if (n := getattr(socket, name, None))]
    found = [(socket.IPPROTO_TCP, number, value) for number, value in tcp]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *found]


class Pause:
    """Exponential, with jitter: 0.5 s, then twice as long each time, to half a minute."""

    def __init__(self, first_s: float = 0.5) -> None:
        self._first_s = self._next_s = first_s

    def next_s(self) -> float:
        longest = min(_MOST_PAUSE_S, self._next_s)
        self._next_s = 2 * longest
        return longest * random.uniform(0.5, 1.0)  # noqa: S311

    def reset(self) -> None:
        self._next_s = self._first_s


@contextlib.contextmanager
def understood() -> Iterator[None]:
    """Around reading what was answered; raises FleetUnreachable for what nobody would answer."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise FleetUnreachable(
            f"what answers is no API server: {type(error).__name__} {error}",
            next="who stands between this pod and the API server?",
        ) from error
