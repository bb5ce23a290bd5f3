"""The entrypoint of TorchServe's image, with the real TorchServe of this environment."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import httpx
import psutil
import pytest

from modelswitch.agent.environment import environment
from modelswitch.archive.layout import MANIFEST
from modelswitch.archive.manifest import encode
from modelswitch.archive.writer import write_small
from modelswitch.local import ports
from tests.dockerfile import ROOT, stages
from tests.stack.deployment import wait_for
from tests.stack.image import AS_USER, Image
from tests.stack.machine import free_port_base

# Says who it is, after as many seconds as it is told; `begun` is there as soon as it is asked.
HANDLER = b"""
import os, time
def handle(data, ctx):
    if data is None:
        return None
    open(os.path.join(os.environ["TMPDIR"], "begun"), "w").close()
    time.sleep(float(data[0]["body"]))
    return [str(os.getuid())]
"""


@dataclass
class House:
    """An image that can be started, and what was."""

    image: Image
    output: Path
    process: psutil.Popen | None = None
    workers: list[psutil.Process] = field(default_factory=list)

    def open(self) -> psutil.Popen:
        """Returns when it answers and a worker of `slow` is there."""
        process = self.process = self.image.start(self.output)

        def answers() -> bool:
            assert process.poll() is None, self.output.read_text()
            return self.image.answers()

        wait_for(answers)
        self.image.register("slow.mar")
        self.workers = process.children(recursive=True)
        return process

    def close(self) -> None:
        for process in (*self.workers, self.process):
            if process is not None:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        if self.process is not None:
            self.process.wait(30)


@pytest.fixture
def house() -> Iterator[House]:
    # Not in pytest's folder: it is root's alone, and its name too long for workers' sockets
    with tempfile.TemporaryDirectory(prefix="image-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        stage = stages(ROOT / "serving/torchserve/Dockerfile")[-1]
        image = Image(folder / "root", stage, ports.server_ports(free_port_base(), 0))
        image.lay_out()
        manifest = encode(name="slow", version="1", handler="slow.py")
        write_small(image.path("/models/slow.mar"), {"slow.py": HANDLER, MANIFEST: manifest})
        # The agent writes into it; TorchServe has it read-only
        image.path("/models").chmod(0o555)
        made = House(image, folder / "output")
        yield made
        made.close()


def test_it_serves_and_writes_into_its_volumes_only(house: House) -> None:
    image = house.image
    left = image.path("/tmp/models/left-by-one-that-was-killed/weights")
    left.parent.mkdir(parents=True)
    left.touch()
    for made in (left, *left.parents[:2]):
        os.chown(made, image.user, -1)
    before = image.outside(), sorted(image.path("/models").iterdir())

    house.open()
    answer = image.predict("slow", "0")

    assert (answer.status_code, answer.text) == (200, str(image.user))
    assert (image.outside(), sorted(image.path("/models").iterdir())) == before
    if AS_USER:
        shared = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path("/dev/shm")]
        everywhere = [p for folder in shared if folder.is_dir() for p in folder.iterdir()]
        assert [p for p in everywhere if p.lstat().st_uid == image.user] == []
    assert not left.exists()
    assert image.path("/logs/model_log.log").exists()
    told = environment(image.path("/run/modelswitch/environment.json"))()
    assert told.packages["torch"] == version("torch")
    assert told.packages["torchserve"] == version("torchserve")
    assert told.packages_sha256 == environment(None)().packages_sha256


def test_told_to_end_it_does_at_once_and_drops_what_is_in_flight(house: House) -> None:
    """So a pod waits before it tells it: see preStop in k8s/base and docs/containers.md."""
    image, process = house.image, house.open()

    with ThreadPoolExecutor() as pool:
        in_flight = pool.submit(image.predict, "slow", "45")
        wait_for(image.path("/tmp/begun").exists)
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)

    assert code == 128 + signal.SIGTERM
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        in_flight.result()
    wait_for(lambda: not [w for w in house.workers if w.is_running()], 30)


def test_a_volume_that_cannot_be_written_is_named_before_java_starts(house: House) -> None:
    logs = house.image.path("/logs")
    if os.geteuid() == 0 and not AS_USER:
        pytest.skip("root writes everywhere, and setpriv (util-linux) is not here")
    logs.chmod(0o555)

    process = house.process = house.image.start(house.output)

    assert process.wait(30) == 1
    assert house.output.read_text() == (
        f"user {house.image.user} cannot write into {logs}; "
        "mount a volume there that belongs to that user\n"
    )
