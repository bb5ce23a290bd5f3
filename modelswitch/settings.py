"""modelswitch.toml, found from the working directory upward, with MODELSWITCH_* over it.

One object, passed down, never global. Every default works after `modelswitch up`. Secrets do
not stand in the file: a password in `database_url` is refused there.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from modelswitch.errors import SettingsError

FILE_NAME = "modelswitch.toml"
STATE_NAME = ".modelswitch"
PREFIX = "MODELSWITCH_"

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Deployment = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Port = Annotated[int, Field(ge=1024, le=60_000)]  # others follow from it


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Fleet(_Section):
    """How pins reach the agents: through a folder, or through a ConfigMap on Kubernetes.

    `path`: the folder that pins and reports pass through; else inside the state folder. The
    rest is Kubernetes': `kubeconfig` and `context` as kubectl takes them, else the pod's own
    service account. `config_map` is that of the deployment unless named. `mount` is where an
    agent's pod mounts it. `pins_file` is the text that is reviewed and that Terraform reads;
    with `terraform_dir` pins are published by `terraform apply` there, else by server-side apply.
    """

    kind: Literal["folder", "kubernetes"] = "folder"
    path: Path | None = None
    kubeconfig: Path | None = None
    context: str | None = None
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")] | None = None
    config_map: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")] | None = (
        None
    )
    mount: Path = Path("/etc/modelswitch/pins")
    pins_file: Path | None = None
    terraform_dir: Path | None = None
    inference_url: str | None = None


class Server(_Section):
    """One TorchServe and its agent. Unset values are those of the local stack's server a.

    `health_port`: where the agent answers /readyz, /healthz, /metrics and /report; unset: nowhere.
    `health_host`: the address it listens on. `cache_bytes`: archives that no pin names any more
    are kept up to so much, for the way back. `environment_file`: what the worker's interpreter
    has, where that is not the agent's own.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")] = "a"
    pool: str = "default"
    inference_url: str | None = None
    management_url: str | None = None
    model_store: Path | None = None
    log_dir: Path | None = None
    health_port: Annotated[int, Field(ge=1024, le=65_535)] | None = None
    health_host: str = "127.0.0.1"
    cache_bytes: Annotated[int, Field(ge=0)] = 0
    environment_file: Path | None = None
    auth: Literal["none"] = "none"


class Timeouts(_Section):
    load_s: Seconds = 120.0
    prove_s: Seconds = 30.0
    unload_s: Seconds = 60.0


class Local(_Section):
    """The stack on one machine. `port_base` is server a's inference port; others are offsets."""

    state_dir: Path | None = None
    servers: Annotated[int, Field(ge=1, le=16)] = 1
    port_base: Port = 8080


class Settings(BaseSettings):
    """What every room is told. `root` is where modelswitch.toml or .modelswitch was found."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        validate_default=True,
    )

    deployment: Deployment = "local"
    primary: bool = True
    tracking_uri: str | None = None
    database_url: str | None = None
    store_url: str | None = None
    ways_back: Annotated[int, Field(ge=1, le=8)] = 1
    max_candidates: Annotated[int, Field(ge=1, le=8)] = 1
    fleet: Fleet = Fleet()
    server: Server = Server()
    timeouts: Timeouts = Timeouts()
    local: Local = Local()

    root: Path = Field(default_factory=Path.cwd, exclude=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The file's values arrive as init arguments: the environment stands over them.
        return env_settings, init_settings

    @property
    def state_dir(self) -> Path:
        """Where the local stack keeps its data, logs and process ids."""
        return (self.local.state_dir or self.root / STATE_NAME).absolute()

    @property
    def fleet_path(self) -> Path:
        return (self.fleet.path or self.state_dir / "fleet").absolute()

    @property
    def config_map(self) -> str:
        """The ConfigMap of this deployment's pins: a name that Kubernetes takes."""
        return self.fleet.config_map or pins_name(self.deployment)

    @property
    def store(self) -> str:
        return self.store_url or (self.state_dir / "archives").as_uri()


def pins_name(deployment: str) -> str:
    """`modelswitch-pins-<deployment>`, in the letters that a ConfigMap's name may have."""
    plain = re.sub(r"[^a-z0-9.-]", "-", deployment.lower()).strip("-.")
    return f"modelswitch-pins-{plain}"


def load(
    *, file: Path | None = None, start: Path | None = None, deployment: str | None = None
) -> Settings:
    """Read the settings; `deployment` (the flag) stands over all.

    Raises SettingsError in one line naming file, key, what was found and what is allowed.
    """
    start = (start or Path.cwd()).absolute()
    named = file or (
        Path(os.environ[PREFIX + "CONFIG"]) if PREFIX + "CONFIG" in os.environ else None
    )
    if named is not None and not named.is_file():
        raise SettingsError(f"the settings file {named} does not exist", next="see --config")
    root = named.absolute().parent if named else find_root(start)
    path = named or root / FILE_NAME
    data = _read(path) if path.is_file() else {}
    _refuse_unknown_variables()
    try:
        settings = Settings(**data, root=root)
        if deployment:
            TypeAdapter(Deployment).validate_python(deployment)
            settings = settings.model_copy(update={"deployment": deployment})
    except ValidationError as error:
        raise SettingsError(_first(error, path), next="docs/settings.md lists every key") from error
    return settings


def find_root(start: Path) -> Path:
    """The nearest folder upward that holds modelswitch.toml or .modelswitch, else `start`."""
    for folder in (start, *start.parents):
        if (folder / FILE_NAME).is_file() or (folder / STATE_NAME).is_dir():
            return folder
    return start


def _read(path: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    if "root" in data:
        raise SettingsError(f"{path}: root: not a setting")
    for key in ("database_url", "tracking_uri", "store_url"):
        _refuse_password(path, key, data.get(key))
    for section, key in _PATHS:
        table = data.get(section)
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = path.absolute().parent / table[key]
    return data


# Relative ones start at the file's folder, wherever one stands.
_PATHS = (
    ("fleet", "path"),
    ("fleet", "kubeconfig"),
    ("fleet", "pins_file"),
    ("fleet", "terraform_dir"),
    ("server", "model_store"),
    ("server", "log_dir"),
    ("server", "environment_file"),
    ("local", "state_dir"),
)


def _refuse_password(path: Path, key: str, url: object) -> None:
    if not isinstance(url, str):
        return
    try:
        parts = urlsplit(url)
        password = parts.password or dict(parse_qsl(parts.query)).get("password")
    except ValueError as error:
        raise SettingsError(f"{path}: {key}: not an address: {error}") from error
    if password:
        others = ", PGPASSWORD or a pgpass file" if key == "database_url" else ""
        raise SettingsError(
            f"{path}: {key} holds a password, which does not belong in a file",
            next=f"take it out and set {PREFIX}{key.upper()}{others}",
        )


# Read elsewhere, not settings of the file.
_OTHER_VARIABLES = {"CONFIG", "ACTOR", "LOG", "CRASH_AT", "CORRELATION_ID", "DEBUG"}


def _refuse_unknown_variables() -> None:
    known = {name.upper() for name in Settings.model_fields} - {"ROOT"} | _OTHER_VARIABLES
    for variable in os.environ:
        if not variable.startswith(PREFIX):
            continue
        key = variable.removeprefix(PREFIX).partition("__")[0]
        if key not in known:
            raise SettingsError(
                f"the environment variable {variable} is not a setting",
                next="known: " + ", ".join(PREFIX + k for k in sorted(known)),
            )
        section = _section(key.lower())
        if variable == PREFIX + key and section is not None:
            keys = ", ".join(f"{variable}__{name.upper()}" for name in section.model_fields)
            raise SettingsError(f"{variable} is a section; set its keys: {keys}")


def _section(name: str) -> type[_Section] | None:
    field = Settings.model_fields.get(name)
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, _Section) else None


def _first(error: ValidationError, path: Path) -> str:
    """One line of the first complaint: where, which key, what was found, what is allowed."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    variable = PREFIX + key.upper().replace(".", "__")
    where = variable if variable in os.environ else f"{path}: {key}"
    if not key:  # checked by itself: the flag
        where = "--deployment"
    if first["type"] == "extra_forbidden":
        section = _section(str(first["loc"][0])) or Settings
        known = ", ".join(name for name in section.model_fields if name != "root")
        return f"{where} is not a setting (known: {known})"
    found = "" if isinstance(first["input"], dict) else f" (found {first['input']!r})"
    return f"{where}: {first['msg']}{found}"
