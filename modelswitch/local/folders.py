"""Where each part of the stack keeps its things: everything below one state folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from modelswitch.errors import StackError

# A Unix socket's path holds at most 104 bytes on macOS, 108 on Linux; the longest name that
# stands in such a folder is ".ts.sock.60000.1234".
_SOCKET_FOLDER_BYTES = 80


@dataclass(frozen=True, slots=True)
class Folders:
    """`state` is the settings' state_dir, absolute."""

    state: Path

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def postgresql(self) -> Path:
        return self.state / "postgresql"

    @property
    def mlflow(self) -> Path:
        return self.state / "mlflow"

    @property
    def database_url(self) -> str:
        """PostgreSQL on a Unix socket in its own folder: it listens on no port."""
        socket = quote(str(short(self.postgresql)), safe="/")
        return f"postgresql+psycopg2://postgres@/postgres?host={socket}"

    def server(self, name: str) -> Path:
        return self.state / "servers" / name

    def model_store(self, name: str) -> Path:
        return self.server(name) / "store"

    def temporary(self, name: str) -> Path:
        return self.server(name) / "tmp"

    def server_logs(self, name: str) -> Path:
        return self.logs / f"torchserve-{name}"


def short(path: Path) -> Path:
    """The path itself, or where `shortened` puts a link if it is too long for sockets."""
    if len(os.fsencode(path)) <= _SOCKET_FOLDER_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"modelswitch-{os.getuid()}-{digest}"


def shortened(path: Path) -> Path:
    """`short(path)`, with the link made; raises StackError if a stranger's stands there."""
    link = short(path)
    if link == path:
        return path
    if not link.is_symlink():
        link.symlink_to(path)
    if link.lstat().st_uid != os.getuid() or link.readlink() != path:
        raise StackError(
            f"{link} does not lead to {path}: somebody else made it",
            next="choose a shorter state folder: [local] state_dir in modelswitch.toml",
        )
    return link


def forget_short(path: Path) -> None:
    """Remove the link that `shortened` made, if it made one."""
    link = short(path)
    if link != path and link.is_symlink() and link.readlink() == path:
        link.unlink()
