"""The few calls that a switch makes, over MLflow's REST API 2.0, without importing MLflow.

MLflow's own client costs about a second to import and one GET before each write, which is most
of a warm switch. Everything else (registering, files, runs) goes through the client; so does this
where the environment asks for a login that only the client knows (`is_enough`).
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

_API = "/api/2.0/mlflow/"
# Set for a login or a connection that is MLflow's client's business.
_CLIENTS_OWN = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "DATABRICKS_HOST")
_CREDENTIALS = Path("~/.mlflow/credentials")


class RestError(Exception):
    """MLflow's answer to a call it refused: its error code and message."""

    def __init__(self, error_code: str, message: str) -> None:
        super().__init__(message)
        self.error_code = error_code
        self.message = message


def is_enough() -> bool:
    """Whether this client knows every login that the environment asks for."""
    return not (
        any(os.environ.get(name) for name in _CLIENTS_OWN) or _CREDENTIALS.expanduser().exists()
    )


class Rest:
    """Named and shaped as MLflow's client is, as far as the registry's reads and marks go.

    Raises RestError for what MLflow refuses, httpx.HTTPError where it does not answer.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._url = tracking_uri + _API
        self._http = _connection()

    def search_registered_models(
        self,
        filter_string: str | None = None,
        max_results: int = 100,
        page_token: str | None = None,
    ) -> Page:
        asked = {"filter": filter_string, "max_results": max_results, "page_token": page_token}
        found = self._get("registered-models/search", asked)
        return Page([_model(m) for m in found.get("registered_models", [])], found)

    def get_registered_model(self, name: str) -> Any:
        return _model(self._get("registered-models/get", {"name": name})["registered_model"])

    def search_model_versions(
        self,
        filter_string: str | None = None,
        max_results: int = 1000,
        page_token: str | None = None,
    ) -> Page:
        asked = {"filter": filter_string, "max_results": max_results, "page_token": page_token}
        found = self._get("model-versions/search", asked)
        return Page([_version(v) for v in found.get("model_versions", [])], found)

    def get_model_version(self, name: str, version: str) -> Any:
        asked = {"name": name, "version": version}
        return _version(self._get("model-versions/get", asked)["model_version"])

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self._send(
            "POST", "registered-models/alias", {"name": name, "alias": alias, "version": version}
        )

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        told = {"name": name, "version": version, "key": key, "value": value}
        self._send("POST", "model-versions/set-tag", told)

    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        told = {"name": name, "version": version, "key": key}
        self._send("DELETE", "model-versions/delete-tag", told)

    def transition_model_version_stage(self, name: str, version: str, stage: str) -> None:
        told = {"name": name, "version": version, "stage": stage}
        self._send("POST", "model-versions/transition-stage", told)

    def _get(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        params = {key: value for key, value in asked.items() if value is not None}
        return _read(self._http.get(self._url + path, params=params))

    def _send(self, method: str, path: str, told: dict[str, Any]) -> None:
        _read(self._http.request(method, self._url + path, json=told))


class Page(list[Any]):
    """One page, with MLflow's token for the next."""

    def __init__(self, items: list[Any], found: dict[str, Any]) -> None:
        super().__init__(items)
        self.token = found.get("next_page_token") or None


def _connection() -> httpx.Client:
    import httpx

    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    verify: Any = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        verify = False
    return httpx.Client(
        auth=(user, password) if user and password else None,
        headers={"Authorization": f"Bearer {token}"} if token and not user else None,
        cert=os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH") or None,
        verify=verify,
        timeout=float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")),
    )


def _read(answer: httpx.Response) -> dict[str, Any]:
    try:
        said = answer.json()
    except ValueError:
        said = None
    if answer.is_success and isinstance(said, dict):
        return said
    if isinstance(said, dict) and isinstance(said.get("error_code"), str):
        raise RestError(said["error_code"], str(said.get("message", "")))
    if answer.status_code in (401, 403):
        code = "UNAUTHENTICATED" if answer.status_code == 401 else "PERMISSION_DENIED"
        raise RestError(code, f"HTTP {answer.status_code}: {answer.text[:200]}")
    # No MLflow speaks like this: a proxy, or another server on the port.
    what = f"what came is not MLflow's JSON (HTTP {answer.status_code}): {answer.text[:200]}"
    raise RestError("INTERNAL_ERROR", what)


def _tags(found: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag.get("value", "") for tag in found.get("tags", [])}


def _model(found: dict[str, Any]) -> Any:
    return SimpleNamespace(
        name=found["name"],
        description=found.get("description", ""),
        tags=_tags(found),
        aliases={a["alias"]: str(a["version"]) for a in found.get("aliases", [])},
    )


def _version(found: dict[str, Any]) -> Any:
    return SimpleNamespace(
        name=found["name"],
        version=str(found["version"]),
        run_id=found.get("run_id"),
        source=found.get("source"),
        status=found.get("status", "READY"),
        tags=_tags(found),
        aliases=found.get("aliases", []),
        current_stage=found.get("current_stage"),
        description=found.get("description", ""),
        creation_timestamp=int(found.get("creation_timestamp", 0)),
    )
