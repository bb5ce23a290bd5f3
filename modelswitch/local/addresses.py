"""Where the stack's parts answer: read from stack.json, by every verb; imports nothing heavy."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from modelswitch.errors import StackError
from modelswitch.local import ports
from modelswitch.local.folders import Folders
from modelswitch.settings import Settings

STATE_FILE = "stack.json"


class Server(BaseModel):
    """One TorchServe of the stack."""

    model_config = ConfigDict(frozen=True)

    name: str
    inference_url: str
    management_url: str
    metrics_url: str


class Member(BaseModel):
    """One process of the stack. `created` is its creation time as the system tells it."""

    model_config = ConfigDict(frozen=True)

    pid: int
    created: float
    stop_by: int


class State(BaseModel):
    """What stack.json holds. `id` stands in every process's environment.

    The flags say which parts the stack runs itself; `members` what was started, by name.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    port_base: int
    servers: int
    postgresql: bool
    mlflow: bool
    agents: bool
    members: dict[str, Member] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of all parts that should run, the keeper apart."""
        servers = [ports.server_name(place) for place in range(self.servers)]
        return (
            *(("postgresql",) if self.postgresql else ()),
            *(("mlflow",) if self.mlflow else ()),
            *(f"torchserve-{name}" for name in servers),
            *(f"agent-{name}" for name in servers if self.agents),
        )


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where MLflow, the database and the servers answer, whether the stack runs them or not."""

    tracking_uri: str
    database_url: str
    servers: tuple[Server, ...]


def read_state(settings: Settings) -> State | None:
    """The state of a stack that was started and not stopped; None when there is none."""
    path = settings.state_dir / STATE_FILE
    try:
        return State.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise StackError(
            f"{path} cannot be read: {error.errors()[0]['msg']}",
            next="if no process of the stack runs any more, remove that file",
        ) from error


def addresses(settings: Settings) -> Addresses:
    """What the settings name, else MLFLOW_TRACKING_URI, else the stack's, else its defaults."""
    state = read_state(settings)
    base = state.port_base if state else settings.local.port_base
    count = state.servers if state else settings.local.servers
    return Addresses(
        tracking_uri=settings.tracking_uri
        or os.environ.get("MLFLOW_TRACKING_URI")
        or ports.tracking_url(base),
        database_url=settings.database_url or Folders(settings.state_dir).database_url,
        servers=tuple(server(base, place) for place in range(count)),
    )


def server(base: int, place: int) -> Server:
    own = ports.server_ports(base, place)
    return Server(
        name=ports.server_name(place),
        inference_url=own.inference_url,
        management_url=own.management_url,
        metrics_url=own.metrics_url,
    )
