"""The CI examples: their linters' word, their commands, and what they do with exit codes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from modelswitch.cli.main import cli

FOLDER = Path(__file__).parents[2] / "docs" / "ci"
GITHUB, GITLAB = FOLDER / "github-actions.yml", FOLDER / "gitlab-ci.yml"
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def step(job: str, name: str) -> str:
    steps = read(GITHUB)["jobs"][job]["steps"]
    script: str = next(s["run"] for s in steps if s.get("name") == name)
    return script


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("schema", "path"),
    [("vendor.github-workflows", GITHUB), ("vendor.gitlab-ci", GITLAB)],
    ids=["github", "gitlab"],
)
def test_it_fits_its_schema(schema: str, path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_actionlint_finds_nothing() -> None:
    if found := shutil.which("actionlint"):
        command = [found]
    elif shutil.which("go"):
        command = ["go", "run", ACTIONLINT]
    else:
        pytest.skip("neither actionlint nor Go is installed")
    done = subprocess.run([*command, str(GITHUB)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", [GITHUB, GITLAB], ids=["github", "gitlab"])
def test_its_commands_exist(path: Path) -> None:
    found = [
        m for line in lines(path) if (m := re.search(r"(?:run: |- |^ +)(modelswitch .*)", line))
    ]
    assert len(found) == 2
    for match in found:
        words = shlex.split(match.group(1).partition(" >")[0])[1:]
        name, command, rest = cli.resolve_command(click.Context(cli), words)
        assert command is not None
        command.make_context(name, list(rest), parent=click.Context(cli))


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a runner gives a step, and programs in front of all others."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("RUNNER_TEMP", str(tmp_path))
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_ENV"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


def program(runner: Path, name: str, script: str) -> None:
    file = runner / "bin" / name
    file.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    file.chmod(0o755)


def run(script: str) -> subprocess.CompletedProcess[str]:
    """As GitHub does."""
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_schedule_tells_a_difference_from_a_failure(runner: Path, code: int) -> None:
    program(
        runner,
        "modelswitch",
        f'[ "$*" = diff ] && echo "digits: server a is behind" && exit {code}',
    )
    done = run(step("diff", "Compare"))

    assert done.returncode == code
    assert ("::error::What serves is not" in done.stdout) == (code == 3)
    assert "server a is behind" in (runner / "GITHUB_STEP_SUMMARY").read_text()


@pytest.mark.parametrize(("code", "exit_code"), [(0, 0), (2, 0), (1, 1)])
def test_a_plan_with_changes_is_no_failure(runner: Path, code: int, exit_code: int) -> None:
    program(runner, "terraform", f'case "$*" in *" plan "*) echo the plan; exit {code};; esac')
    done = run(step("plan", "Plan"))

    assert done.returncode == exit_code
    assert "the plan" in (runner / "GITHUB_STEP_SUMMARY").read_text()


def test_the_kubeconfig_is_its_owners_alone(runner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG_FILE", "apiVersion: v1")
    done = run(step("apply", "The cluster"))

    assert done.returncode == 0
    assert "apiVersion" not in done.stdout + done.stderr
    assert (runner / "kubeconfig").stat().st_mode & 0o777 == 0o600
    assert (runner / "GITHUB_ENV").read_text().splitlines() == [
        f"KUBE_CONFIG_PATH={runner}/kubeconfig",
        f"KUBECONFIG={runner}/kubeconfig",
    ]
