"""Two servers for one contract: TorchServe as `modelswitch up` runs it, and the twin."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path

from modelswitch.local.addresses import State
from modelswitch.local.folders import Folders, forget_short
from modelswitch.local.starter import Starter
from modelswitch.local.torchserve import torchserve
from modelswitch.servers.protocol import ModelServer, ServedVersion
from modelswitch.servers.torchserve import TorchServe
from modelswitch.servers.twin import TwinServer

LOAD_TIMEOUT_S = 60.0

# What our handlers promise, without a model: the golden answer, the probe, the two headers.
HANDLER = """
import hashlib, json, pathlib

class Handler:
    def initialize(self, context):
        text = pathlib.Path(context.system_properties["model_dir"], "modelswitch.json").read_bytes()
        document = json.loads(text)
        self.digest = "sha256:" + hashlib.sha256(text).hexdigest()
        self.name = "{model}@{version}".format(**document["identity"])
        self.golden = document["golden"]
        LOAD

    def handle(self, data, context):
        return [self.one(row, i, context) for i, row in enumerate(data)]

    def one(self, row, i, context):
        context.set_response_header(i, "X-Model-Version", self.name)
        context.set_response_header(i, "X-Archive-Digest", self.digest)
        headers = {k.lower(): v for k, v in context.get_all_request_header(i).items()}
        if headers.get("x-modelswitch-probe") == "1":
            return {"model": self.name, "digest": self.digest}
        is_golden = row.get("body") == self.golden["request"]
        return self.golden["expected"] if is_golden else {"predictions": ["something"]}
"""
FAILS = 'raise RuntimeError("the weights are of another model")'
EXITS = "__import__('os')._exit(3)"


@dataclass(frozen=True)
class Archive:
    """One archive in a model store, with what it should answer."""

    model: str
    label: str
    file: str
    digest: str
    request: bytes
    expected: object


def write_archive(
    store: Path, model: str, version: str = "1", *, about: str = "", load: str = "pass"
) -> Archive:
    """`about` changes the bytes and with them the digest; `load` is run when a worker loads."""
    golden = {"request": {"inputs": [1, 2]}, "expected": {"predictions": [int(version), about]}}
    document = {"identity": {"model": model, "version": version}, "golden": golden}
    text = json.dumps(document).encode()
    digest = hashlib.sha256(text).hexdigest()
    label = f"{version}-{digest[:8]}"
    manifest = {
        "runtime": "python",
        "model": {"modelName": model, "modelVersion": label, "handler": "handler.py"},
    }
    with zipfile.ZipFile(store / f"{digest}.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("modelswitch.json", text)
        archive.writestr("handler.py", HANDLER.replace("LOAD", load))
    request = json.dumps(golden["request"]).encode()
    return Archive(model, label, f"{digest}.mar", f"sha256:{digest}", request, golden["expected"])


class TorchServeHouse:
    """A TorchServe in a temporary folder, started by the local stack's own parts."""

    def __init__(self, folder: Path, port_base: int) -> None:
        self.folders = Folders(folder)
        self.part = torchserve(self.folders, port_base, 0)
        self.store = self.folders.model_store("a")
        self._starter: Starter | None = None
        self._port_base = port_base

    def start(self) -> None:
        state = State(
            id=uuid.uuid4().hex,
            port_base=self._port_base,
            servers=1,
            postgresql=False,
            mlflow=False,
            agents=False,
        )
        self.folders.state.mkdir(parents=True, exist_ok=True)
        self._starter = Starter(self.folders.state / "stack.json", state)
        self._starter.start([self.part])

    def stop(self) -> None:
        assert self._starter is not None
        self._starter.undo()
        forget_short(self.folders.temporary("a"))

    @property
    def management_url(self) -> str:
        return self.part.address.replace(str(self._port_base), str(self._port_base + 1))

    def client(self) -> ModelServer:
        logs = self.folders.server_logs("a")
        return TorchServe(self.part.address, self.management_url, log_dir=logs)

    async def restart(self, server: ModelServer) -> None:
        await asyncio.to_thread(self.stop)
        await asyncio.to_thread(self.start)

    async def lose(self, server: ModelServer) -> None:
        await asyncio.to_thread(self.stop)

    async def find(self, server: ModelServer) -> None:
        await asyncio.to_thread(self.start)

    def spoil(self, server: ModelServer, version: str, model: str, load: str) -> Archive:
        return write_archive(self.store, model, version, load=load)


class TwinHouse:
    """The twin, with the same doors."""

    def __init__(self, folder: Path) -> None:
        self.store = folder

    def client(self) -> ModelServer:
        return TwinServer(self.store, worker_bytes=520_000_000)

    async def restart(self, server: TwinServer) -> None:
        server.restart()

    async def lose(self, server: TwinServer) -> None:
        server.faults.unreachable = True

    async def find(self, server: TwinServer) -> None:
        server.faults.unreachable = False

    def spoil(self, server: TwinServer, version: str, model: str, load: str) -> Archive:
        archive = write_archive(self.store, model, version, about="unloadable")
        server.faults.unloadable.add(archive.label)
        return archive


House = TorchServeHouse | TwinHouse


async def loaded(server: ModelServer, archive: Archive, workers: int = 1) -> ServedVersion:
    """Register, ask for workers, wait until they are READY."""
    await server.register(archive.model, archive.label, archive.file)
    await server.workers(archive.model, archive.label, workers)
    deadline = time.monotonic() + LOAD_TIMEOUT_S
    while True:
        served = await server.describe(archive.model)
        assert served is not None
        version = served.versions[archive.label]
        if version.ready == workers:
            return version
        assert time.monotonic() < deadline, version
        await asyncio.sleep(0.05)
