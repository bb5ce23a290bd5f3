"""Publishing by Terraform: plan, read the plan, apply that very plan.

Terraform owns the ConfigMap and its state; it runs in its folder with the user's own environment.
What it says of a failure is told on, without what looks like a secret. A plan file may hold
secrets: it lives in a private folder as long as it is needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelswitch.effects import effect
from modelswitch.errors import FleetUnreachable, PlanRefused, TerraformFailed
from modelswitch.fleet.terraform_plan import objections
from modelswitch.pins import Pins

_LINES = 20  # of what Terraform says of a failure, each so long
_CHARS = 300
_RELEASE_S = 30.0  # what an interrupted Terraform gets to save its state and release its lock
_LOCK_S = 60  # how long it waits for somebody else's lock, at most

_INIT = "terraform init"  # in each of Terraform's demands for one
_STALE = "Saved plan is stale"
_LOCKED = "Error acquiring the state lock"
# What is said while the cluster or the state's store is away, and may go away by itself.
_AWAY = re.compile(
    r"connection refused|connection reset|connection timed out|no such host|i/o timeout"
    r"|TLS handshake timeout|context deadline exceeded|network is unreachable|no route to host"
    r"|server is currently unable to handle|too many requests|unexpected EOF",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|_KEY|PG_CONN_STR", re.IGNORECASE
)
_SECRET_TEXT = re.compile(r"(?<=//)[^/@\s]+(?=@)|(?<=[Bb]earer )\S+")


@dataclass(frozen=True, slots=True)
class _Done:
    """An ended command; `errors` is what it said of them, in lines."""

    code: int
    out: str
    errors: str


class Terraform:
    """The root module in `folder`, whose state has the ConfigMap `config_map` of `namespace`.

    `timeout_s` bounds one `apply`, planning and waiting for locks included. `program` is a name
    on the PATH or a path.
    """

    def __init__(
        self,
        folder: Path,
        *,
        namespace: str,
        config_map: str,
        program: str = "terraform",
        timeout_s: float = 300.0,
    ) -> None:
        self.folder = folder
        self.namespace = namespace
        self.config_map = config_map
        self.program = program
        self.timeout_s = timeout_s

    def apply(self, pins: Pins, standing: Pins | None, *, anything: bool = False) -> None:
        """Make the cluster hold `pins`, which stand already in the file that Terraform reads.

        `standing` is what the cluster holds now, None where nothing readable does. `anything`
        lets the plan touch more than the pins: the first one makes the ConfigMap and the roles.
        Raises PlanRefused, TerraformFailed, and FleetUnreachable for what may go away by itself.
        """
        deadline = time.monotonic() + self.timeout_s
        with tempfile.TemporaryDirectory(prefix="modelswitch-plan-") as private:
            file = Path(private) / "plan"  # the folder is its owner's alone
            for last in (False, True):
                if not self._plan(file, pins, standing, anything, deadline):
                    return
                with effect("terraform.apply", generation=pins.generation):
                    done = self._run(["apply", "-json", *_waiting(deadline), str(file)], deadline)
                if done.code == 0:
                    return
                if last or _STALE not in done.errors:
                    raise self._failure("apply the plan", done)

    def _plan(
        self,
        file: Path,
        pins: Pins,
        standing: Pins | None,
        anything: bool,
        deadline: float,
    ) -> bool:
        """Write a plan that may be applied; False when there is nothing to apply."""
        with effect("terraform.plan", generation=pins.generation):
            done = self._planned(file, deadline)
            shown = self._run(["show", "-json", str(file)], deadline)
            if shown.code != 0:
                raise self._failure("show the plan", shown)
            against = objections(
                json.loads(shown.out),
                text=pins.text,
                namespace=self.namespace,
                config_map=self.config_map,
                standing=standing,
                anything=anything,
            )
            if against:
                raise PlanRefused(
                    f"Terraform's plan in {self.folder} was not applied: {'; '.join(against)}. "
                    "The cluster holds what it held",
                    next="look at it: terraform plan. What is meant is applied by hand, or by "
                    "modelswitch resume --allow-other-changes; pins that are older or not ours "
                    "are never published",
                )
        return done.code == 2

    def _planned(self, file: Path, deadline: float) -> _Done:
        # As JSON its errors come without the values that were at hand, a whole document perhaps.
        words = ["plan", "-json", "-detailed-exitcode", f"-out={file}", *_waiting(deadline)]
        ready = self.folder / os.environ.get("TF_DATA_DIR", ".terraform")
        done = self._run(words, deadline) if ready.is_dir() else None
        if done is None or (done.code == 1 and _INIT in done.errors):
            made = self._run(["init", "-no-color", *_waiting(deadline)], deadline)
            if made.code != 0:
                raise self._failure("be initialized", made)
            done = self._run(words, deadline)
        if done.code not in (0, 2):
            raise self._failure("plan", done)
        return done

    def _run(self, words: list[str], deadline: float) -> _Done:
        with self._started(words) as process:
            try:
                out, errors = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired as error:
                raise FleetUnreachable(
                    f"terraform {words[0]} in {self.folder} did not end within "
                    f"{self.timeout_s:g} s and was interrupted",
                    next="run it by hand to see what it waits for; what it has applied stands",
                ) from error
        return _Done(process.returncode, out, _errors(out) or errors)

    @contextlib.contextmanager
    def _started(self, words: list[str]) -> Iterator[subprocess.Popen[str]]:
        """A child that is never left behind: interrupted once, it saves and unlocks its state."""
        try:
            process = subprocess.Popen(
                [self.program, *words],
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                # A terminal's Ctrl-C reaches us alone, and Terraform through us: a second one
                # would make it stop without saving.
                start_new_session=True,
            )
        except OSError as error:
            at_fault = self.folder if not self.folder.is_dir() else self.program
            raise TerraformFailed(
                f"Terraform cannot be started in {self.folder}: {at_fault}: {error.strerror}",
                next="install Terraform, or correct [fleet] terraform_dir in modelswitch.toml",
            ) from error
        with process:
            try:
                yield process
            finally:
                _end(process)

    def _failure(self, what: str, done: _Done) -> TerraformFailed | FleetUnreachable:
        said = _told(done.errors or done.out)
        if _LOCKED in done.errors:
            return FleetUnreachable(
                f"Terraform in {self.folder} could not {what}: somebody else holds the lock of "
                f"its state:\n{said}",
                next="wait for them; a lock that nobody holds any more: terraform force-unlock ID",
            )
        if _AWAY.search(done.errors):
            return FleetUnreachable(
                f"Terraform in {self.folder} could not {what}: something does not answer:\n{said}",
                next="try again; is the cluster reachable from here? terraform plan says more",
            )
        return TerraformFailed(
            f"Terraform in {self.folder} could not {what}:\n{said}",
            next=f"correct it and try again; by hand: terraform -chdir={self.folder} plan",
        )


def _waiting(deadline: float) -> list[str]:
    left_s = int(deadline - time.monotonic())
    return [f"-lock-timeout={max(0, min(_LOCK_S, left_s - 5))}s"]


def _environment() -> Mapping[str, str]:
    # No question, no colour, and no call home for news of releases.
    return {**os.environ, "TF_IN_AUTOMATION": "1", "TF_INPUT": "0", "CHECKPOINT_DISABLE": "1"}


def _end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=_RELEASE_S)
    except subprocess.TimeoutExpired:
        # Its providers are in the session that was started for it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _errors(out: str) -> str:
    """The errors among Terraform's JSON lines, as text; "" where there are none."""
    found = []
    for line in out.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            diagnostic = json.loads(line)["diagnostic"]
            if diagnostic["severity"] == "error":
                at = diagnostic.get("range")
                where = f" ({at['filename']} line {at['start']['line']})" if at else ""
                said = f"Error: {diagnostic['summary']}{where}\n{diagnostic.get('detail', '')}"
                found.append(said.strip())
    return "\n".join(found)


def _told(text: str) -> str:
    """From its first error on, without what looks like a secret."""
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    text = _SECRET_TEXT.sub("***", text)
    lines = [line.rstrip()[:_CHARS] for line in text.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if line.startswith("Error:")), 0)
    return "\n".join(lines[first : first + _LINES])
