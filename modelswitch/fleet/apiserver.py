"""The door to the Kubernetes API: how it is opened, and what its errors are called here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from modelswitch.errors import FleetUnreachable, SettingsError
from modelswitch.settings import Fleet

if TYPE_CHECKING:
    from lightkube import Client
    from lightkube.config.kubeconfig import SingleConfig

_HINTS = {
    401: "log in to the cluster again",
    403: "your rights: kubectl auth can-i --list",
    404: "does the namespace exist? see [fleet] namespace",
    409: "somebody else keeps writing it: modelswitch resume, once they are done",
}


def open_client(fleet: Fleet, *, field_manager: str) -> Client:
    """A client for commands; raises SettingsError where no cluster is configured."""
    from lightkube import Client

    config = configuration(fleet)
    with reached("the cluster cannot be reached"):
        return Client(config, namespace=fleet.namespace, field_manager=field_manager)


def configuration(fleet: Fleet) -> SingleConfig:
    """[fleet] kubeconfig and context, else as kubectl: KUBECONFIG, ~/.kube/config, the pod's own.

    Raises SettingsError.
    """
    from lightkube import KubeConfig
    from lightkube.core.exceptions import ConfigError

    try:
        found = (
            KubeConfig.from_file(str(fleet.kubeconfig))
            if fleet.kubeconfig is not None
            else KubeConfig.from_env()
        )
        config = found.get(fleet.context)
    except (ConfigError, OSError, KeyError) as error:
        raise SettingsError(
            f"no cluster to talk to: {error}",
            next="set [fleet] kubeconfig and context, or KUBECONFIG",
        ) from error
    if config is None:
        raise SettingsError(
            f"the kubeconfig has no context {fleet.context!r}",
            next="kubectl config get-contexts",
        )
    return config


@contextlib.contextmanager
def reached(what: str) -> Iterator[None]:
    """Turn what the API server, or the way to it, says into FleetUnreachable."""
    import httpx2
    from lightkube import ApiError
    from lightkube.core.exceptions import ConfigError

    try:
        yield
    except ApiError as error:
        code = error.status.code or 0
        raise FleetUnreachable(
            f"{what}: {error.status.message or error} (HTTP {code})", next=_HINTS.get(code)
        ) from error
    except httpx2.HTTPError as error:
        raise FleetUnreachable(
            f"{what}: {type(error).__name__}: {error}",
            next="is the API server up, and the kubeconfig the right one? kubectl version",
        ) from error
    except ConfigError as error:
        raise FleetUnreachable(f"{what}: {error}", next="see [fleet] kubeconfig") from error


def is_conflict(error: FleetUnreachable) -> bool:
    """Whether it was not written because somebody else wrote it in the same moment."""
    from lightkube import ApiError

    cause = error.__cause__
    return isinstance(cause, ApiError) and cause.status.code == 409
