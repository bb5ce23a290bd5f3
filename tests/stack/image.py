"""An image's last stage in a plain folder: its files, variables and words, without an engine.

Of the Dockerfile's paths only the root is another; free ports on loopback stand in its addresses.
As root it is started as the image's user.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from modelswitch.local import ports
from tests.dockerfile import Stage, lay_out

PYTHON = "/opt/venv/bin/python"
AS_USER = shutil.which("setpriv") if os.geteuid() == 0 else None
# Reading is all that is left of root: the interpreter may stand in root's own home
CAPABILITIES = "-all,+dac_read_search"


@dataclass(frozen=True)
class Image:
    """`root` is what the image sees as /."""

    root: Path
    stage: Stage
    ports: ports.ServerPorts

    @property
    def user(self) -> int:
        return int(self.stage.last("USER")[0].partition(":")[0]) if AS_USER else os.geteuid()

    def path(self, inside: str) -> Path:
        return self.root / inside.removeprefix("/")

    @property
    def volumes(self) -> list[Path]:
        return [self.path(volume) for volume in self.stage.last("VOLUME")]

    def lay_out(self) -> None:
        """Its files, read-only, and its volumes, which belong to its user."""
        for volume in self.volumes:
            volume.mkdir(parents=True)
        lay_out(self.stage, self.root)
        for volume in self.volumes:
            volume.chmod(0o755)
            os.chown(volume, self.user, self.user if AS_USER else os.getegid())

    def start(self, output: Path) -> psutil.Popen:
        """Starts its ENTRYPOINT without the init that stands before it."""
        entrypoint = self.stage.last("ENTRYPOINT")
        argv = [self._here(word) for word in entrypoint[entrypoint.index("--") + 1 :]]
        if AS_USER:
            sets = ("--inh-caps", "--ambient-caps", "--bounding-set")
            rights = ("--clear-groups", "--no-new-privs", *(f"{s}={CAPABILITIES}" for s in sets))
            argv = [AS_USER, f"--reuid={self.user}", f"--regid={self.user}", *rights, *argv]
        workdir = self.stage.last("WORKDIR")[0]
        declared = self.stage.env | {"HOME": workdir}
        env = {key: self._here(value) for key, value in declared.items()}
        env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.defpath))
        with output.open("wb") as file:
            return psutil.Popen(
                argv,
                env=env | self._addresses(),
                cwd=self.path(workdir),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def _here(self, word: str) -> str:
        if word == PYTHON:
            return sys.executable
        return str(self.path(word)) if word.startswith("/") else word

    def _addresses(self) -> dict[str, str]:
        return {
            "TS_INFERENCE_ADDRESS": self.ports.inference_url,
            "TS_MANAGEMENT_ADDRESS": self.ports.management_url,
            "TS_METRICS_ADDRESS": f"http://{ports.LOOPBACK}:{self.ports.metrics}",
            "TS_GRPC_INFERENCE_PORT": str(self.ports.grpc_inference),
            "TS_GRPC_MANAGEMENT_PORT": str(self.ports.grpc_management),
        }

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.ports.inference_url}/ping", trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def register(self, archive: str) -> None:
        """As an agent would, and returns when a worker is there."""
        answer = httpx.post(
            f"{self.ports.management_url}/models",
            params={"url": archive, "initial_workers": 1, "synchronous": "true"},
            timeout=120,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text

    def predict(self, model: str, text: str) -> httpx.Response:
        return httpx.post(
            f"{self.ports.inference_url}/predictions/{model}",
            content=text,
            headers={"content-type": "text/plain"},
            timeout=60,
            trust_env=False,
        )

    def outside(self) -> dict[Path, tuple[int, int, int]]:
        """All it has but its volumes: what a read-only root would keep as it is."""
        found = {}
        for folder, folders, files in os.walk(self.root):
            here = Path(folder)
            folders[:] = [name for name in folders if here / name not in self.volumes]
            for path in (here, *(here / name for name in files)):
                stat = path.lstat()
                found[path] = stat.st_mode, stat.st_size, stat.st_mtime_ns
        return found
