"""Client and AsyncClient: one way to ask, with kept connections, limits and careful retries.

A request that may have reached the model is never sent again: only one that was refused unlooked
at, or that never left.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx2

from modelswitch.client.answers import Prediction, Reply, prediction_of
from modelswitch.client.bodies import NPY, body_of
from modelswitch.client.checks import count, is_name, is_printable, seconds, sendable
from modelswitch.errors import (
    ConnectionLost,
    NotReached,
    PredictionError,
    Temporary,
    TimedOut,
    UsageError,
)

TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
CONNECTIONS = 256
_KEPT_S = 60.0
# Between two attempts, above what the server asked for: doubled each time, and spread
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 30.0

# What fails before the first byte of a request is out
_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


@dataclass(frozen=True, slots=True)
class _Question:
    """One request, as every attempt sends it."""

    model: str
    url: str
    content: bytes
    headers: Mapping[str, str]
    timeout_s: float
    retries: int

    @property
    def correlation_id(self) -> str:
        return self.headers["X-Correlation-Id"]

    @property
    def limits(self) -> httpx2.Timeout:
        # The model may take its time; a connection is there at once, or something is wrong
        connect = min(self.timeout_s, CONNECT_TIMEOUT_S)
        return httpx2.Timeout(self.timeout_s, connect=connect)


class _Asking:
    """What both clients know: the address, and how a call becomes a request.

    All that cannot be sent is refused here, with UsageError, before a connection is opened.
    """

    def __init__(
        self, url: str, timeout_s: float, retries: int, headers: Mapping[str, str] | None
    ) -> None:
        if not is_printable(url) or not url.startswith(("http://", "https://")):
            raise UsageError(
                f"{url!r} is no address of a server", next="like http://127.0.0.1:8080"
            )
        self.url = url.rstrip("/")
        self.timeout_s = seconds(timeout_s)
        self.retries = count(retries)
        self.headers = sendable(headers or {})

    def question(
        self,
        model: str,
        inputs: Any,
        *,
        version: str | None,
        timeout_s: float | None,
        retries: int | None,
        content_type: str | None,
        binary: bool | None,
        answer: Literal["json", "npy"],
        correlation_id: str | None,
    ) -> _Question:
        if answer not in ("json", "npy"):
            raise UsageError(f"answer={answer!r}: an answer comes as 'json' or as 'npy'")
        if not is_name(model):
            raise UsageError(f"{model!r} is no name of a model", next="modelswitch models")
        if version is not None and version != "" and not is_name(version):
            raise UsageError(
                f"version={version!r} is no label, such as '3-ab12cd34'",
                next="modelswitch show NAME@3 tells the label of what is loaded",
            )
        body = body_of(inputs, content_type=content_type, binary=binary)
        path = f"/predictions/{quote(model, safe='')}"
        return _Question(
            model=f"{model}@{version}" if version else model,
            url=self.url + path + (f"/{quote(version, safe='')}" if version else ""),
            content=body.content,
            headers=self.headers
            | sendable(
                {
                    "Content-Type": body.content_type,
                    "Accept": NPY if answer == "npy" else "application/json",
                    "X-Correlation-Id": correlation_id or uuid.uuid4().hex[:16],
                }
            ),
            timeout_s=self.timeout_s if timeout_s is None else seconds(timeout_s),
            retries=self.retries if retries is None else count(retries),
        )


class Client(_Asking):
    """Asks the models of one address; threads may share it.

    `url`: a server's, a Service's or a gateway's inference address. `timeout_s`: how long one
    attempt may wait for the server. `retries`: how often a request that was refused unlooked at,
    or that reached nobody, is sent again. `headers` go with every request, such as Authorization.
    `connections`: so many at once, each kept for a minute. `trust_env`: take proxies from the
    environment.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: int = 0,
        headers: Mapping[str, str] | None = None,
        connections: int = CONNECTIONS,
        verify: bool | ssl.SSLContext = True,
        trust_env: bool = False,
    ) -> None:
        super().__init__(url, timeout_s, retries, headers)
        self._http = httpx2.Client(limits=_limits(connections), verify=verify, trust_env=trust_env)

    def predict(
        self,
        model: str,
        inputs: Any,
        *,
        version: str | None = None,
        timeout_s: float | None = None,
        retries: int | None = None,
        content_type: str | None = None,
        binary: bool | None = None,
        answer: Literal["json", "npy"] = "json",
        correlation_id: str | None = None,
    ) -> Prediction:
        """Ask a model once.

        `version`: a label (`3-ab12cd34`, as `modelswitch promote --to staging` tells it); without
        one what is in production answers. `inputs`, `content_type`, `binary`: see `body_of`.
        `answer`: "npy" asks for one array as it is. `correlation_id`: found again in the worker's
        log and in the Prediction.

        Raises UsageError for what cannot be sent, BadRequest, NotServed or PredictionFailed for
        good, and what is Temporary: Overloaded, OutOfMemory, WorkerDied, NotReached, TimedOut,
        ConnectionLost.
        """
        asked = self.question(
            model,
            inputs,
            version=version,
            timeout_s=timeout_s,
            retries=retries,
            content_type=content_type,
            binary=binary,
            answer=answer,
            correlation_id=correlation_id,
        )
        attempt = 1
        while True:
            try:
                return self._ask(asked, attempt)
            except PredictionError as error:
                pause_s = _pause_s(error, asked, attempt)
                if pause_s is None:
                    raise
            time.sleep(pause_s)
            attempt += 1

    def _ask(self, asked: _Question, attempt: int) -> Prediction:
        _check_open(self._http, asked)
        started = time.perf_counter()
        try:
            answer = self._http.post(
                asked.url, content=asked.content, headers=asked.headers, timeout=asked.limits
            )
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise _fault(error, asked) from error
        return _prediction(answer, asked, started, attempt)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient(_Asking):
    """Client's twin for asyncio: the same arguments, the same answers, the same errors."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: int = 0,
        headers: Mapping[str, str] | None = None,
        connections: int = CONNECTIONS,
        verify: bool | ssl.SSLContext = True,
        trust_env: bool = False,
    ) -> None:
        super().__init__(url, timeout_s, retries, headers)
        self._http = httpx2.AsyncClient(
            limits=_limits(connections), verify=verify, trust_env=trust_env
        )

    async def predict(
        self,
        model: str,
        inputs: Any,
        *,
        version: str | None = None,
        timeout_s: float | None = None,
        retries: int | None = None,
        content_type: str | None = None,
        binary: bool | None = None,
        answer: Literal["json", "npy"] = "json",
        correlation_id: str | None = None,
    ) -> Prediction:
        """As `Client.predict`. Inputs are read and encoded in a thread: images take a while."""
        asked = await asyncio.to_thread(
            self.question,
            model,
            inputs,
            version=version,
            timeout_s=timeout_s,
            retries=retries,
            content_type=content_type,
            binary=binary,
            answer=answer,
            correlation_id=correlation_id,
        )
        attempt = 1
        while True:
            try:
                return await self._ask(asked, attempt)
            except PredictionError as error:
                pause_s = _pause_s(error, asked, attempt)
                if pause_s is None:
                    raise
            await asyncio.sleep(pause_s)
            attempt += 1

    async def _ask(self, asked: _Question, attempt: int) -> Prediction:
        _check_open(self._http, asked)
        started = time.perf_counter()
        try:
            answer = await self._http.post(
                asked.url, content=asked.content, headers=asked.headers, timeout=asked.limits
            )
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise _fault(error, asked) from error
        return _prediction(answer, asked, started, attempt)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _check_open(http: httpx2.Client | httpx2.AsyncClient, asked: _Question) -> None:
    if http.is_closed:
        raise UsageError(
            f"{asked.model} is not asked: the client is closed",
            next="ask before close(), or make another client",
        )


def _limits(connections: int) -> httpx2.Limits:
    return httpx2.Limits(
        max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=_KEPT_S
    )


def _prediction(
    answer: httpx2.Response, asked: _Question, started: float, attempt: int
) -> Prediction:
    return prediction_of(
        Reply(answer.status_code, answer.headers, answer.content),
        model=asked.model,
        correlation_id=asked.correlation_id,
        latency_ms=(time.perf_counter() - started) * 1000,
        attempts=attempt,
    )


def _fault(error: Exception, asked: _Question) -> PredictionError | UsageError:
    """The error for a request that got no answer."""
    what = str(error) or type(error).__name__
    if isinstance(error, httpx2.InvalidURL | httpx2.UnsupportedProtocol):
        return UsageError(f"{asked.url} is no address: {what}")
    if isinstance(error, _UNSENT):
        return NotReached(
            f"{asked.model}: no server answers at {asked.url} ({what}); nothing was sent",
            next="modelswitch status says what runs",
            reason="unreachable",
            retry_after_s=_FIRST_PAUSE_S,
            correlation_id=asked.correlation_id,
        )
    if isinstance(error, httpx2.TimeoutException):
        return TimedOut(
            f"{asked.model} did not answer within {asked.timeout_s:g} s ({asked.url})",
            next="give it more time (timeout_s), or see what it does: modelswitch logs",
            reason="timed_out",
            correlation_id=asked.correlation_id,
        )
    return ConnectionLost(
        f"{asked.model}: the connection to {asked.url} was lost before all of an answer had come "
        f"({what})",
        next="modelswitch logs",
        reason="connection_lost",
        correlation_id=asked.correlation_id,
    )


def _pause_s(error: PredictionError, asked: _Question, attempt: int) -> float | None:
    """How long to wait before the next attempt, in seconds; None when there is none."""
    if attempt > asked.retries or error.may_have_run or not isinstance(error, Temporary):
        return None
    spread = random.uniform(0, _FIRST_PAUSE_S * 2 ** min(attempt, 16))  # noqa: S311 nothing secret
    return min(_LONGEST_PAUSE_S, (error.retry_after_s or 0.0) + spread)
