"""How the program starts: at once, with little, and an agent without what only verbs need."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from modelswitch.cli.main import cli
from modelswitch.reports import Report
from tests.site import wait_for

VERBS = [
    *("up", "down", "status", "register", "models", "show", "build", "promote", "rollback"),
    *("scale", "engines"),
    *(
        "retire",
        "predict",
        "bench",
        "diff",
        "history",
        "resume",
        "adopt",
        "logs",
        "doctor",
        "agent",
    ),
    *("quarantine", "pins", "completion"),
]


def python(code: str, *, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )
    return done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, io, json; from modelswitch.cli.main import run\n"
        "out, sys.stdout = sys.stdout, io.StringIO()\n"
        "assert run(['--help']) == 0\n"
        "print(json.dumps(sorted(sys.modules)), file=out)"
    )
    loaded = {name.partition(".")[0] for name in json.loads(python(code))}
    heavy = {"pydantic", "sqlalchemy", "mlflow", "torch", "numpy", "httpx", "fsspec", "structlog"}
    assert not loaded & heavy


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_page_with_the_global_flags(verb: str) -> None:
    said = CliRunner().invoke(cli, [verb, "--help"])
    assert said.exit_code == 0
    for flag in ("--json", "--debug", "--config", "--dry-run", "--actor", "--timeout", "--yes"):
        assert flag in said.output


@pytest.mark.parametrize("line", ["--help", "--version", "retire --help", "quarantine --help"])
def test_a_help_page_that_nobody_reads_to_its_end_is_no_error(line: str) -> None:
    """As in `modelswitch retire --help | head -3`."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "modelswitch", *line.split()],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_every_verb_is_listed_once() -> None:
    assert sorted(cli.commands) == sorted(VERBS)


def free_port() -> int:
    with socket.socket() as trying:
        trying.bind(("127.0.0.1", 0))
        return int(trying.getsockname()[1])


def test_the_agent_reports_stops_on_sigterm_and_needs_no_mlflow_database_or_torch(
    tmp_path: Path,
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    env = {
        **os.environ,
        "MODELSWITCH_SERVER__NAME": "edge",
        "MODELSWITCH_SERVER__INFERENCE_URL": url,
        "MODELSWITCH_SERVER__MANAGEMENT_URL": url,
        "MODELSWITCH_LOCAL__STATE_DIR": str(tmp_path / "state"),
    }
    code = (
        "import sys, json; from modelswitch.cli.main import run\n"
        "code = run(['agent'])\n"
        "print(json.dumps([code, sorted(sys.modules)]))"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code],
        env=env,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    report = tmp_path / "state" / "fleet" / "reports" / "edge.json"
    try:
        wait_for(lambda: report.exists() or running.poll() is not None)
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=15)
    finally:
        running.kill()
        running.wait()
    assert out, err
    exit, modules = json.loads(out)
    said = Report.model_validate_json(report.read_bytes())
    assert exit == 0
    assert said.inference_url == url
    assert said.error is not None  # no server answers there, and it says so
    assert said.capacity.cores >= 1
    roots = {name.partition(".")[0] for name in modules}
    assert not roots & {"mlflow", "sqlalchemy", "alembic", "torch", "psycopg2", "numpy", "pandas"}


def test_an_agent_without_addresses_says_what_to_set(tmp_path: Path) -> None:
    env = {**os.environ, "MODELSWITCH_SERVER__NAME": "edge"}
    done = subprocess.run(
        [sys.executable, "-m", "modelswitch", "agent"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "next: set [server] inference_url and management_url"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_published_models_names(tmp_path: Path, shell: str) -> None:
    script = CliRunner().invoke(cli, ["completion", shell])
    assert script.exit_code == 0
    assert "_MODELSWITCH_COMPLETE" in script.output
    fleet = tmp_path / ".modelswitch" / "fleet"
    fleet.mkdir(parents=True)
    pinned = {"default": None, "slots": {}}
    pins = {"schema": 1, "deployment": "local", "generation": 1, "models": {"digits": pinned}}
    (fleet / "pins.json").write_text(json.dumps(pins))
    env = {
        "_MODELSWITCH_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": "modelswitch promote di",
        "COMP_CWORD": "2" if shell != "fish" else "di",
    }
    code = "from modelswitch.cli import main; main()"
    assert "digits" in python(code, env=env, cwd=tmp_path)
