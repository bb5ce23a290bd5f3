"""A worker of TorchServe as it is started here: its own file, without torch until somebody asks."""

from __future__ import annotations

import importlib.util
import os
import select
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from socket import AF_UNIX, socket

import psutil
import pytest

from modelswitch.local import worker

HANDLER = """
def handle(data, context):
    if data is None:
        return None
    {body}
"""
PLAIN = "return ['fine'] * len(data)"
TENSORS = "import torch; return [torch.ones(2)] * len(data)"


def packages() -> Path:
    spec = importlib.util.find_spec("ts")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent


class Frontend:
    """TorchServe's side of a worker's socket, as far as loading and asking go."""

    def __init__(self, folder: Path, python: str) -> None:
        self.socket = socket(AF_UNIX)
        self.socket.settimeout(60)
        name = folder / ".ts.sock.9000"
        self.process = subprocess.Popen(
            [
                *(python, str(packages() / worker.WORKER)),
                *("--sock-type", "unix", "--sock-name", str(name)),
                *("--metrics-config", str(packages() / "configs/metrics.yaml")),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{packages().parent}"},
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.folder = folder
        assert self.process.stdout
        assert any("Python runtime" in line for line in self.process.stdout)
        self.socket.connect(str(name))

    def load(self) -> None:
        self.socket.sendall(load_message(self.folder))
        assert self.code() == 200

    def ask(self) -> bytes:
        self.socket.sendall(ask_message())
        assert self.code() == 200
        return self.rest

    def code(self) -> int:
        """The code of the next answer; `rest` is what follows it."""
        text = self.socket.recv(1 << 16)
        while select.select([self.socket], [], [], 0.2)[0]:
            text += self.socket.recv(1 << 16)
        self.rest = text[4:]
        return int(struct.unpack_from("!i", text)[0])

    @property
    def has_torch(self) -> bool:
        maps = psutil.Process(self.process.pid).memory_maps()
        return any("libtorch" in each.path for each in maps)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.communicate()
        self.socket.close()


def text(value: str) -> bytes:
    return struct.pack("!i", len(value)) + value.encode()


def load_message(folder: Path) -> bytes:
    """As ts.protocol.otf_message_handler reads it."""
    gpu, is_limited = struct.pack("!i", -1), b"\x01"
    head = b"L" + text("model") + text(str(folder)) + struct.pack("!i", 1)
    return head + text("handler.py") + gpu + text("") + is_limited


def ask_message() -> bytes:
    body = text("body") + text("application/json") + text("{}")
    end = struct.pack("!i", -1)
    return b"I" + text("request-1") + end + body + end + end


@pytest.fixture
def frontend(tmp_path: Path) -> Iterator[Callable[[str], Frontend]]:
    started = []

    def start(body: str, *, ours: bool = True) -> Frontend:
        if ours:
            (tmp_path / worker.OURS).touch()
        (tmp_path / "handler.py").write_text(HANDLER.format(body=body))
        launcher = tmp_path / "python"
        launcher.write_text(worker.launcher(sys.executable))
        launcher.chmod(0o755)
        started.append(Frontend(tmp_path, str(launcher)))
        return started[-1]

    yield start
    for each in started:
        each.end()


def test_worker_loads_and_answers_without_torch(frontend: Callable[[str], Frontend]) -> None:
    server = frontend(PLAIN)
    server.load()

    assert b"fine" in server.ask()
    assert not server.has_torch


def test_worker_of_another_archive_has_torch_before_it_is_asked(
    frontend: Callable[..., Frontend],
) -> None:
    server = frontend(PLAIN, ours=False)

    assert server.has_torch


def test_torch_comes_when_it_is_asked_for(frontend: Callable[[str], Frontend]) -> None:
    server = frontend(TENSORS)
    server.load()

    # A bare tensor is answered by torch.save, in TorchServe's own module: a zip.
    assert b"PK\x03\x04" in server.ask()
    assert server.has_torch


def test_launcher_is_python_for_everything_else(tmp_path: Path) -> None:
    launcher = tmp_path / "python"
    launcher.write_text(worker.launcher(sys.executable))
    launcher.chmod(0o755)

    found = subprocess.run(
        [str(launcher), "-c", "import sys; print(sys.argv)", "a"], capture_output=True, check=True
    )

    assert found.stdout == b"['-c', 'a']\n"
