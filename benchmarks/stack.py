"""A stack of the benchmarks' own, driven by the commands a user would type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.stack.machine import free_port_base

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parent.parent
MODEL = "digits"
MOST_SERVERS = 3
PATIENCE_S = 180.0
LOOK_S = 0.2


class BenchmarkFailed(Exception):
    """What was to be measured did not work: there is no figure to tell."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command line that was run: wall clock of its whole process, and what it said.

    `began` and `ended` are Unix times; `logs` its own JSON lines, in order.
    """

    began: float
    ended: float
    data: Any
    logs: tuple[dict[str, Any], ...]

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def proven_at(self) -> list[float]:
        """When each server's proof was made, as Unix times."""
        return [moment(server["proven_at"]) for server in self.data["servers"]]

    def took_s(self, effect: str) -> float:
        """All effects of that name together."""
        return sum(float(line["ms"]) for line in self.logs if _is(line, effect)) / 1000

    def at(self, effect: str, **facts: str) -> float:
        """The Unix time at which the first such effect was done."""
        for line in self.logs:
            if _is(line, effect) and facts.items() <= line.items():
                return moment(line["timestamp"])
        raise BenchmarkFailed(f"the command's log tells of no {effect} with {facts}")


def _is(line: dict[str, Any], effect: str) -> bool:
    return line.get("event") == effect and "ms" in line


def moment(text: str) -> float:
    """RFC 3339 as a Unix time."""
    return datetime.fromisoformat(text).timestamp()


class RunningStack:
    """PostgreSQL, MLflow and TorchServes with agents; `versions` of the model were trained."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.versions: list[str] = []
        self.servers: tuple[str, ...] = ()  # inference URLs
        self.tracking_uri = ""
        base = free_port_base(MOST_SERVERS)
        (folder / "modelswitch.toml").write_text(f"[local]\nport_base = {base}\n")

    @property
    def state(self) -> Path:
        return self.folder / ".modelswitch"

    def grow(self, servers: int) -> None:
        """At least so many servers, all of them healthy."""
        if len(self.servers) < servers:
            found = self.run("up", "--servers", str(servers)).data
            self.tracking_uri = found["tracking_uri"]
            self.servers = tuple(server["inference_url"] for server in found["servers"])

    def run(self, *words: str, correlation_id: str | None = None) -> Command:
        """`modelswitch WORDS --json`; raises BenchmarkFailed if it ends with an error."""
        env = environment() | {"MODELSWITCH_LOG": "json:INFO"}
        if correlation_id:
            env["MODELSWITCH_CORRELATION_ID"] = correlation_id
        began = time.time()
        done = subprocess.run(
            [BIN / "modelswitch", *words, "--json"],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        ended = time.time()
        answer = json.loads(done.stdout) if done.stdout else {}
        if done.returncode not in (0, 3):
            error = (answer.get("error") or {}).get("message") or done.stderr[-2000:]
            raise BenchmarkFailed(f"modelswitch {' '.join(words)} ended {done.returncode}: {error}")
        logs = tuple(json.loads(x) for x in done.stderr.splitlines() if x.startswith("{"))
        return Command(began, ended, answer["data"], logs)

    def promote(self, version: str, to: str = "production") -> Command:
        ref = f"{MODEL}@{version}"
        return self.run("promote", ref, "--to", to, "--reason", "a benchmark")

    def rollback(self) -> Command:
        return self.run("rollback", MODEL, "--no-quarantine", "--reason", "a benchmark", "--yes")

    def train(self) -> str:
        """Train one more version of the model, unlike the others, and register it."""
        seed = str(len(self.versions))
        done = subprocess.run(
            [sys.executable, ROOT / "training" / "digits.py", "--epochs", "1", "--seed", seed],
            env=environment() | {"MLFLOW_TRACKING_URI": self.tracking_uri},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BenchmarkFailed(f"training ended {done.returncode}: {done.stderr[-2000:]}")
        line = next(x for x in done.stdout.splitlines() if x.startswith("version: "))
        self.versions.append(line.rpartition("@")[2])
        return self.versions[-1]

    def two_warm(self) -> tuple[str, str]:
        """Two versions that every server has loaded: the one that serves and its way back."""
        loaded = self.loaded()
        while len(loaded) < 2:
            left = [version for version in self.versions if version not in loaded]
            self.promote(left[-1] if left else self.train())
            loaded = self.loaded()
        self.wait_warm()
        return loaded[0], loaded[1]

    def loaded(self) -> list[str]:
        """The versions that serve, or stand behind what serves, nearest first."""
        found = [m for m in self.run("models").data if m["model"] == MODEL]
        if not found or found[0]["production"] is None:
            return []
        return [found[0]["production"], *(way["version"] for way in found[0]["ways_back"])]

    def reports(self) -> list[dict[str, Any]]:
        """What each agent says of its server, whole."""
        files = sorted((self.state / "fleet" / "reports").glob("*.json"))
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]

    def wait_warm(self) -> None:
        """Until nothing is being loaded on any server."""
        self._wait(lambda state: state not in ("absent", "loading"))

    def wait_alone(self) -> None:
        """Until nothing is being loaded or unloaded on any server."""
        self._wait(lambda state: state == "proven")

    def _wait(self, is_fine: Callable[[str], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            models = [report["models"][MODEL] for report in self.reports()]
            states = [slot["state"] for model in models for slot in model["slots"].values()]
            if all(is_fine(state) for state in states):
                return
            if time.monotonic() > deadline:
                raise BenchmarkFailed(f"after {PATIENCE_S:g} s the servers' slots are {states}")
            time.sleep(LOOK_S)

    def rows(self) -> list[dict[str, Any]]:
        """The model's history, newest first."""
        rows: list[dict[str, Any]] = self.run("history", MODEL).data
        return rows


@contextmanager
def running_stack() -> Iterator[RunningStack]:
    """Nothing is started before `grow`; all is stopped and removed at the end."""
    with tempfile.TemporaryDirectory(prefix="modelswitch-bench-") as folder:
        stack = RunningStack(Path(folder))
        try:
            yield stack
        finally:
            if stack.state.exists():
                stack.run("down")


def environment() -> dict[str, str]:
    """Ours without the settings of another stack."""
    kept_away = ("MODELSWITCH_", "MLFLOW_")
    return {k: v for k, v in os.environ.items() if not k.startswith(kept_away)}
