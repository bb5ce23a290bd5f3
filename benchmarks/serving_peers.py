"""What we are measured against: TorchServe as it comes, LitServe, MLflow's own server.

LitServe (Apache-2.0), and captum, without which TorchServe's image_classifier does not load, are
installed into an environment of their own in the user's cache: neither is a dependency. It sees
the packages of the environment that runs the benchmarks, so that torch is the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.serving_contest import Server
from benchmarks.serving_load import Slice, Target
from benchmarks.stack import BIN, PATIENCE_S, BenchmarkFailed, environment
from modelswitch.local import jvm, ports
from tests.stack.machine import is_free

HERE = Path(__file__).resolve().parent
PACKAGES = ("litserve==0.2.19",)
# captum asks for an older numpy than it needs
BARE_PACKAGES = ("captum==0.9.0",)
WORKERS = 2


def peers_python() -> Path:
    """The interpreter of the peers' environment, which is made if it is not there yet."""
    site = sysconfig.get_path("purelib")
    mark = hashlib.sha256("\n".join((site, sys.version, *PACKAGES, *BARE_PACKAGES)).encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "modelswitch" / "peers" / mark.hexdigest()[:16]
    python = folder / "bin" / "python"
    done = folder / "ready"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _call(sys.executable, "-m", "venv", str(folder))
        own = Path(_call(str(python), "-c", "import sysconfig as s; print(s.get_path('purelib'))"))
        (own / "of-the-benchmarks.pth").write_text(site + "\n", encoding="utf-8")
        pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        _call(*pip, *PACKAGES)
        _call(*pip, "--no-deps", *BARE_PACKAGES)
        done.touch()
    return python


def _call(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"{' '.join(argv)} ended {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout.strip()


@contextmanager
def process(
    argv: Sequence[str | Path], folder: Path, is_up: Callable[[], bool], **env: str
) -> Iterator[int]:
    """Run it until the block ends, in a folder of its own; its process id once it is up."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen(
            [str(word) for word in argv],
            cwd=folder,
            env=environment() | env,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not is_up():
            if started.poll() is not None or time.monotonic() > deadline:
                told = (folder / "log").read_text(encoding="utf-8", errors="replace")[-2000:]
                raise BenchmarkFailed(f"{' '.join(map(str, argv))} did not come up: {told}")
            time.sleep(0.1)
        yield started.pid
    finally:
        _end(started)


def _end(started: subprocess.Popen[bytes]) -> None:
    """It and its children, who may be stopped and would not hear of the end."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(started.pid)
        family = [first, *first.children(recursive=True)]
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.resume()
            one.terminate()
    _, left = psutil.wait_procs(family, timeout=10)
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    started.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def free_ports(count: int) -> list[int]:
    found = [port for port in range(32_100, 33_000) if is_free(port)]
    return found[:count]


@contextmanager
def mlflow_server(model_uri: str, body: bytes, folder: Path, tracking_uri: str) -> Iterator[Server]:
    """`mlflow models serve` with two workers, which checks the signature of each request."""
    (port,) = free_ports(1)
    base = f"http://{ports.LOOPBACK}:{port}"
    argv: list[str | Path] = [
        BIN / "mlflow",
        "models",
        "serve",
        "--model-uri",
        model_uri,
        "--port",
        str(port),
    ]
    argv += ["--host", ports.LOOPBACK, "--workers", str(WORKERS), "--env-manager", "local"]
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    env = {"MLFLOW_TRACKING_URI": tracking_uri, "PATH": path}
    with process(argv, folder, lambda: answers(f"{base}/ping"), **env) as pid:
        target = Target(f"{base}/invocations", (body,), "application/json")
        yield Server("mlflow models serve, 2 workers", target, pid)


@contextmanager
def litserve(
    graph: Path, batch_size: int, bodies: tuple[bytes, ...], folder: Path
) -> Iterator[Server]:
    """Two workers with the same graph; see serving_litserve.py."""
    (port,) = free_ports(1)
    base = f"http://{ports.LOOPBACK}:{port}"
    argv: list[str | Path] = [
        peers_python(),
        HERE / "serving_litserve.py",
        graph,
        str(port),
        str(batch_size),
    ]
    with process(argv, folder, lambda: answers(f"{base}/health")) as pid:
        yield Server(
            f"LitServe, batch {batch_size}", Target(f"{base}/predict", bodies, "image/jpeg"), pid
        )


_STOCK_MODEL = """
from torchvision.models.mobilenetv3 import MobileNetV3, _mobilenet_v3_conf
class Net(MobileNetV3):
    def __init__(self):
        super().__init__(*_mobilenet_v3_conf("mobilenet_v3_small"))
"""


@dataclass(frozen=True)
class Stock:
    """TorchServe as it comes, started by its own command; `store` is its model store."""

    pid: int
    store: Path
    inference_url: str
    management_url: str

    def register(self, archive: str, name: str, **query: str | int) -> None:
        """Returns when its workers are ready."""
        register(self.management_url, archive, name, **query)


def register(management_url: str, archive: str, name: str, **query: str | int) -> None:
    asked: dict[str, str | int] = {"url": archive, "model_name": name, "synchronous": "true"}
    answer = httpx.post(f"{management_url}/models", params=asked | query, timeout=PATIENCE_S)
    if answer.status_code != 200:
        raise BenchmarkFailed(f"TorchServe did not load {name}: {answer.text}")


def write_archive(path: Path, name: str, model: dict[str, str], files: dict[str, bytes]) -> None:
    """As TorchServe's own archiver lays it out."""
    manifest = {"runtime": "python", "model": {"modelName": name, "modelVersion": "1", **model}}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        for entry, content in files.items():
            file.writestr(entry, content)


@contextmanager
def stock_torchserve(folder: Path) -> Iterator[Stock]:
    inference, management, metrics, grpc, grpc_management = free_ports(5)
    store, temporary = folder / "store", folder / "t"
    store.mkdir(parents=True)
    temporary.mkdir()
    base, manage = (f"http://{ports.LOOPBACK}:{port}" for port in (inference, management))
    lines = {
        "inference_address": base,
        "management_address": manage,
        "metrics_address": f"http://{ports.LOOPBACK}:{metrics}",
        "grpc_inference_port": grpc,
        "grpc_management_port": grpc_management,
    }
    config = folder / "config.properties"
    config.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
    # Its workers run in the Python that runs it
    argv: list[str | Path] = [peers_python(), "-m", "ts.model_server", "--start", "--foreground"]
    argv += ["--ncs", "--model-store", store, "--ts-config", config]
    argv += ["--disable-token-auth", "--enable-model-api"]
    env = {"JAVA_HOME": str(jvm.java().parent.parent)}
    env |= {"TMPDIR": str(temporary), "TEMP": str(temporary)}
    # Two workers on two cores, with a pool of threads in each, are several times slower
    env["OMP_NUM_THREADS"] = "1"
    with process(argv, folder, lambda: answers(f"{base}/ping"), **env) as pid:
        yield Stock(pid, store, base, manage)


def image_classifiers(
    stock: Stock, weights: bytes, batches: Sequence[int], bodies: tuple[bytes, ...]
) -> tuple[Server, ...]:
    """Its image_classifier with a state dict and two workers, one contender for each batch size.

    `max_batch_delay` is not left at 100 ms: all but the batch of 1 would wait for it.
    """
    model = {
        "handler": "image_classifier",
        "modelFile": "model.py",
        "serializedFile": "weights.pth",
    }
    files = {"model.py": _STOCK_MODEL.encode(), "weights.pth": weights}
    write_archive(stock.store / "stock.mar", "stock", model, files)
    found = []
    for batch in batches:
        name = f"stock-{batch}"
        stock.register(
            "stock.mar", name, batch_size=batch, max_batch_delay=2, initial_workers=WORKERS
        )
        target = Target(f"{stock.inference_url}/predictions/{name}", bodies, "image/jpeg")
        found.append(Server(f"image_classifier, batch {batch}", target, stock.pid))
    return tuple(found)


@dataclass
class BareLoop:
    """The engine alone, in as many processes as there are workers, or in one for one client."""

    batch_size: int
    processes: Sequence[subprocess.Popen[str]]

    @property
    def name(self) -> str:
        many = "two processes" if len(self.processes) > 1 else "one process"
        return f"bare loop, {many}, batch {self.batch_size}"

    def run(self, clients: int, seconds: float) -> Slice:
        """`clients` does not matter: nobody asks."""
        found = []
        for each in self.processes:
            assert each.stdin
            each.stdin.write(f"{self.batch_size} {seconds}\n")
            each.stdin.flush()
        for each in self.processes:
            assert each.stdout
            found.append(json.loads(each.stdout.readline()))
        count = int(sum(one["a_second"] for one in found) * seconds)
        return Slice(seconds, (found[0]["p50_ms"],) * count)


@contextmanager
def bare_processes(
    graph: Path, files: Sequence[Path], count: int, folder: Path
) -> Iterator[list[subprocess.Popen[str]]]:
    argv = [sys.executable, str(HERE / "serving_engine.py"), str(graph), "1", *map(str, files)]
    with ExitStack() as running:
        found = []
        for number in range(count):
            log = running.enter_context((folder / f"bare-{number}").open("w"))
            one = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
            running.callback(one.wait)
            running.callback(one.terminate)
            found.append(one)
        yield found
