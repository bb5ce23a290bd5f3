"""The README's tour, the guide to a first own model and that of flavors, run as they stand.

Every command below a `$`, and what it is said to print; files are blocks that have a name.

The stack is the session's, and other tests have used it: so `digits` gets a name of its own
here, which makes the README's version numbers the right ones, and what differs from run to run
(ports, ids, times, figures, how many servers) is made the same on both sides.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelswitch.local.stack import Stack

ROOT = Path(__file__).parent.parent.parent
MODEL = "tour"
RUN = re.compile(r"\b(?:run: |runs:/)([0-9a-f]{32})")
FILE = re.compile(r"^```\w+ (\S+\.\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ELIDED = "…"

# curl is on nearly every machine, but the tests promise to need Python and make only.
CURL = f"""#!{sys.executable}
import sys, urllib.request
*_, url, _, header, _, body = sys.argv  # -d or --data-binary: urllib changes nothing
name, _, value = header.partition(": ")
data = open(body.removeprefix("@"), "rb").read()
answer = urllib.request.urlopen(urllib.request.Request(url, data, {{name: value}}))
print("HTTP/1.1", answer.status)
print(answer.headers, answer.read().decode(), sep="")
"""

SAME = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+", "TIME"),
    (r"127\.0\.0\.1:\d+", "HOST"),
    (r"\d+ servers?, proven in .*?\)", "SERVERS"),
    (r" on a(, [a-z])*\b", " on SERVERS"),
    (r"\d+\.\d+(e-\d+)?", "FIGURE"),
    (r"\b[0-9a-f]{8,}\b", "ID"),
    (r"(?m)^\d+ (?= *TIME)|\brow \d+", "ROW "),
    (r"[^\S\n]+", " "),
    (r"(?m)^ | $", ""),
)


@dataclass(frozen=True)
class Step:
    """One `$` line, and the lines that stand below it."""

    command: str
    shown: str


def guide(name: str, section: str = "") -> str:
    """The text of a guide, or of one section of it."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return text.partition(f"\n## {section}\n")[2].partition("\n## ")[0] if section else text


def steps(text: str) -> list[Step]:
    """The commands of a guide, in order."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = named(part).partition("\n")
            found.append(Step(command, shown))
    return found


def named(text: str) -> str:
    return re.sub(r"\bdigits\b(?!\.py)", MODEL, text)


def same(text: str) -> str:
    """Without what differs from run to run."""
    for pattern, word in SAME:
        text = re.sub(pattern, word, text)
    return text.strip()


@pytest.fixture
def environment(stack: Stack, tmp_path: Path) -> Mapping[str, str]:
    """A shell of a user's, beside the scripts, with nothing set but where the stack is."""
    local = stack.settings.local
    tools = tmp_path / "bin"
    tools.mkdir()
    if shutil.which("curl") is None:
        (tools / "curl").write_text(CURL, encoding="utf-8")
        (tools / "curl").chmod(0o755)
    (tmp_path / "training").symlink_to(ROOT / "training")
    path = f"{Path(sys.executable).parent}:{tools}:{os.environ['PATH']}"
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(("MODELSWITCH_", "MLFLOW_"))},
        "PATH": path,
        "MLFLOW_TRACKING_URI": stack.addresses.tracking_uri,
        "MODELSWITCH_LOCAL__STATE_DIR": str(stack.settings.state_dir),
        "MODELSWITCH_LOCAL__SERVERS": str(local.servers),
        "MODELSWITCH_LOCAL__PORT_BASE": str(local.port_base),
        "TZ": "UTC",
    }


@pytest.mark.timeout(900)  # most of its commands import MLflow or torch
@pytest.mark.parametrize(
    ("text", "models"),
    [
        pytest.param(guide("README.md", "A tour"), [MODEL], id="README"),
        pytest.param(guide("docs/first-own-model.md"), ["houses"], id="first own model"),
        pytest.param(guide("docs/flavors.md"), ["tumours", "diabetes", "pictures"], id="flavors"),
    ],
)
def test_a_guide_does_and_prints_what_it_says(
    text: str, models: list[str], environment: Mapping[str, str], stack: Stack, tmp_path: Path
) -> None:
    assert len(steps(text)) >= 5
    for name, body in FILE.findall(text):
        (tmp_path / name).write_text(body, encoding="utf-8")

    env = dict(environment)
    runs: dict[str, str] = {}  # the guide's run ids, and those of this run
    try:
        for step in steps(text):
            if step.command.startswith("export "):
                name, _, value = step.command.removeprefix("export ").partition("=")
                env[name] = value
                continue
            command = in_this_run(step.command, stack, runs)
            code, printed = run(command, env, tmp_path)
            if command == "modelswitch diff" and code == 3:
                assert not [model for model in models if model in printed], printed
                continue  # of what another test has left
            assert code == 0, f"$ {command}\n{printed}"
            assert_shows(command, step.shown, printed)
            runs.update(zip(RUN.findall(step.shown), RUN.findall(printed), strict=False))
    finally:
        for model in models:
            run(f"modelswitch retire {model} --yes --reason 'the tour is over'", env, tmp_path)


def run(command: str, env: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """The exit code, and what a terminal would have shown."""
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=240,
    )
    return done.returncode, done.stdout


def in_this_run(command: str, stack: Stack, runs: Mapping[str, str]) -> str:
    """The command with the ports and run ids of this run, for the model of this test."""
    command = command.replace("http://127.0.0.1:8080", stack.addresses.servers[0].inference_url)
    for shown, real in runs.items():
        command = command.replace(shown, real)
    if command.startswith("python training/digits.py"):
        command += f" --name {MODEL}"
    return command


def assert_shows(command: str, shown: str, printed: str) -> None:
    """Each shown line was printed, in this order; `…` stands for anything."""
    rest = same(printed)
    for line in same(shown).splitlines():
        parts = [re.escape(part.strip()) for part in line.split(ELIDED)]
        if not any(parts):
            continue
        found = re.search(".*?".join(parts), rest)
        assert found, f"$ {command}\nthe README shows: {line}\nprinted was:\n{printed}"
        rest = rest[found.end() :]
