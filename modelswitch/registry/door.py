"""The door to MLflow: its client, imported late and quietly, and its exceptions made ours."""

from __future__ import annotations

import logging
import os
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from modelswitch.errors import (
    ArchiveError,
    ModelSwitchError,
    NotFound,
    Refused,
    RegistryUnreachable,
    SettingsError,
)
from modelswitch.garbage import uncollected
from modelswitch.registry.rest import Rest, RestError, is_enough

CONNECT_TIMEOUT_S = 3.0
TRANSFER_TIMEOUT_S = 600  # a proxying MLflow fetches a whole file before it sends a byte

TIMEOUT_VARIABLE = "MLFLOW_HTTP_REQUEST_TIMEOUT"
# Read by MLflow at each call; whoever has set one of them meant it.
DEFAULTS = {
    TIMEOUT_VARIABLE: "10",
    # MLflow would repeat every request, also one that may have taken effect.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_AWAY = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}
_NOT_ALLOWED = {"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"}

T = TypeVar("T")


class Door:
    """Calls MLflow's client for one tracking URI."""

    def __init__(self, tracking_uri: str) -> None:
        if urlsplit(tracking_uri).scheme not in ("http", "https"):
            raise SettingsError(
                f"tracking_uri is {tracking_uri!r}: MLflow is talked to over http or https only",
                next="start a server on that store: modelswitch up, or mlflow server",
            )
        self.tracking_uri = tracking_uri.rstrip("/")
        self._client: Any = None
        self._rest: Rest | None = None

    def quick(self, call: Callable[[Any], T]) -> T:
        """Like `call`, by REST alone where the login allows it, so that MLflow is not imported.

        Only for what `Rest` has: reads of the registry, and marks.
        """
        if not is_enough():
            return self.call(call)
        import httpx

        if self._rest is None:
            self._knock()
            _set_defaults()
            self._rest = Rest(self.tracking_uri)
        try:
            return call(self._rest)
        except RestError as error:
            if error.error_code in _AWAY:
                raise self._unreachable(_first_line(error.message)) from error
            raise self._ours(error.error_code, error.message) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(_first_line(error)) from error

    def call(self, call: Callable[[Any], T]) -> T:
        """`call(client)`; raises RegistryUnreachable, Refused or NotFound for MLflow's errors."""
        if self._client is None:
            self._knock()
            # The registry's URI too: else a variable could name another one than the settings.
            self._client = _client_class()(self.tracking_uri, self.tracking_uri)
        from mlflow.exceptions import MlflowException, RestException

        try:
            return call(self._client)
        except MlflowException as error:
            if not isinstance(error, RestException) or error.error_code in _AWAY:
                raise self._unreachable(_first_line(_innermost(error))) from error
            raise self._ours(error.error_code, error.message) from error
        except OSError as error:  # the exceptions of requests are OSErrors; so is a full disk
            if error.errno is not None:
                raise ArchiveError(
                    f"a model's file could not be written or read: {error}"
                ) from error
            raise self._unreachable(_first_line(_innermost(error))) from error

    def _knock(self) -> None:
        """Find out that nobody listens before a second is spent on importing MLflow."""
        parts = urlsplit(self.tracking_uri)
        host = parts.hostname or ""
        if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
            return
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise self._unreachable(_first_line(error)) from error

    def _ours(self, code: str, said: str) -> ModelSwitchError:
        message = _first_line(said).removeprefix(f"{code}: ")
        if code in _NOT_ALLOWED:
            return Refused(
                f"MLflow at {self.tracking_uri} does not allow it: {message}",
                next="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_TOKEN, of an account that may",
            )
        if code == "RESOURCE_DOES_NOT_EXIST":
            return NotFound(
                f"MLflow at {self.tracking_uri}: {message}", next=f"see {self.tracking_uri}"
            )
        return Refused(f"MLflow at {self.tracking_uri} refused: {message}")

    def _unreachable(self, why: str) -> RegistryUnreachable:
        return RegistryUnreachable(
            f"MLflow at {self.tracking_uri} does not answer as it should: {why}",
            next="start it (modelswitch up), see its log, or set tracking_uri to where it runs",
        )


@contextmanager
def patience() -> Iterator[None]:
    """A longer timeout while files are moved, unless the user has chosen one."""
    _set_defaults()
    before = os.environ[TIMEOUT_VARIABLE]
    if before == DEFAULTS[TIMEOUT_VARIABLE]:
        os.environ[TIMEOUT_VARIABLE] = str(TRANSFER_TIMEOUT_S)
    try:
        yield
    finally:
        os.environ[TIMEOUT_VARIABLE] = before


def _client_class() -> Any:
    """Import MLflow as quickly and quietly as it goes."""
    _set_defaults()
    with uncollected():
        from mlflow import MlflowClient
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    return MlflowClient


def _set_defaults() -> None:
    for variable, value in DEFAULTS.items():
        os.environ.setdefault(variable, value)


def _innermost(error: BaseException) -> BaseException:
    """What really happened ("timed out"), beneath what requests and urllib3 wrap around it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:300]
