"""The shared stack as tests use it: command lines, the facade, and what each server answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from modelswitch.effects import CRASH_VARIABLE
from modelswitch.ledger import quarantine
from modelswitch.line import Line, Slot
from modelswitch.local.addresses import read_state
from modelswitch.local.stack import Stack
from modelswitch.moves import Intent
from modelswitch.refs import ModelRef
from modelswitch.switch import ModelSwitch
from tests.stack.models import MODEL, REQUEST, answer_of

T = TypeVar("T")
PATIENCE_S = 180.0
WHY = Intent("a test of the stack")


def wait_for(condition: Callable[[], T], timeout_s: float = PATIENCE_S) -> T:
    """The first true value of `condition`; fails when time is up."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.05)
    return value


@dataclass(frozen=True)
class Said:
    """What one command line answered."""

    exit: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def message(self) -> str:
        error = self.document["error"]
        return str(error["message"]) if error else ""

    @property
    def code(self) -> str | None:
        error = self.document["error"]
        return error["code"] if error else None


class Deployment:
    """`slots` are archives of `tiny`'s versions, built at their first use."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.settings = stack.settings
        self.tracking_uri = stack.addresses.tracking_uri
        self.urls = {s.name: s.inference_url for s in stack.addresses.servers}
        self.switch = ModelSwitch(stack.settings, actor="tests")
        self._slots: dict[str, Slot] = {}

    # Command lines

    def start(self, *line: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "modelswitch", "--json", *line],
            cwd=self.settings.root,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *line: str, env: Mapping[str, str] | None = None) -> Said:
        return ended(self.start(*line, env=env))

    def killed(self, boundary: int, *line: str) -> bool:
        """Run a line that is killed at that boundary; False if it ended before."""
        said = self.run(*line, env={CRASH_VARIABLE: str(boundary)})
        assert said.exit in (0, -signal.SIGKILL), said
        return said.exit != 0

    def boundaries(self, listed: Path, *line: str) -> list[str]:
        """`ledger.append before` and so on: those a line passes, in their order."""
        said = self.run(*line, env={CRASH_VARIABLE: str(listed)})
        assert said.exit == 0, said
        return [text.partition(" ")[2] for text in listed.read_text().splitlines()]

    # The line

    def slot(self, version: str) -> Slot:
        if version not in self._slots:
            self._slots[version] = self.switch.build(ModelRef(MODEL, version=version)).slot
        return self._slots[version]

    @property
    def line(self) -> Line:
        event = self.switch.ledger.head(MODEL)
        return event.head.line if event else Line()

    def clear(self) -> None:
        """Let nothing of `tiny` be loaded, and all of it be allowed."""
        self._settle()
        if self.line.slots:
            self.switch.moves.retire(MODEL, None, WHY)
        wait_for(lambda: self.all_serve() == {None})

    def _settle(self) -> None:
        self.switch.resume(now=True)
        for entry in quarantine(self.switch.ledger.history(MODEL)):
            self.switch.moves.lift(MODEL, entry.slot.version, WHY)

    def stand(self, default: str, back: str) -> None:
        """Let `tiny` serve `default` with `back` as its way back, whatever was before."""
        self._settle()
        line = self.line
        if [slot.version for slot in line.serving] != [default, back]:
            for version in (back, default):
                self.switch.moves.promote(MODEL, self.slot(version), WHY)
        for candidate in self.line.candidates:
            self.switch.moves.retire(MODEL, candidate, WHY)
        self.switch.resume()
        assert [slot.version for slot in self.line.serving] == [default, back]

    # What is served

    def ask(self, server: str, model: str = MODEL, **more: Any) -> httpx.Response:
        url = f"{self.urls[server]}/predictions/{model}"
        return httpx.post(url, timeout=10, trust_env=False, **{"json": REQUEST, **more})

    def serves(self, server: str) -> str | None:
        """The version of `tiny` that a server's default path answers with, rightly."""
        try:
            answer = self.ask(server)
        except httpx.HTTPError:
            return None
        if answer.status_code != 200:
            return None
        version = answer.headers["x-model-version"].partition("@")[2]
        assert answer.json() == {"predictions": answer_of(version)}
        return version

    def all_serve(self) -> set[str | None]:
        return {self.serves(name) for name in self.urls}

    def assert_one_story(self) -> None:
        """Nothing differs between ledger, pins, servers and marks; the chain holds."""
        wait_for(lambda: not self.switch.diff())
        default = self.line.default
        assert self.all_serve() == {default.version if default else None}
        self.switch.ledger.verify()

    def pid(self, member: str) -> int | None:
        """None while it is dead and nobody has started it again."""
        state = read_state(self.settings)
        found = state.members.get(member) if state else None
        return found.pid if found else None

    def kill(self, member: str) -> int:
        pid = self.pid(member)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return pid


def ended(process: subprocess.Popen[str], timeout_s: float = 120.0) -> Said:
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"it did not end: {out} {err}") from None
    assert "Traceback" not in err, err
    return Said(process.returncode, out, err)
