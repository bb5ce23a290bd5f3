"""Terraform as the tests run it: in copies of our own modules, never in the work tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

TREE = Path(__file__).parents[1] / "terraform"

installed = pytest.mark.skipif(
    shutil.which("terraform") is None, reason="Terraform is not installed"
)


def copy(tmp_path: Path) -> Path:
    """Our modules and examples, without what an earlier run left there."""
    left = shutil.ignore_patterns(".terraform*", "*.tfstate*", "backend.hcl")
    return shutil.copytree(TREE, tmp_path / "terraform", ignore=left)


def run(
    folder: Path, *words: str, check: bool = True, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Raises AssertionError with what Terraform said when it fails, unless `check` is false."""
    # A variable that names a missing file only makes Terraform warn.
    env = {k: v for k, v in os.environ.items() if k != "TF_CLI_CONFIG_FILE"}
    done = subprocess.run(
        ["terraform", *words],
        cwd=folder,
        env={**env, "TF_INPUT": "0", "CHECKPOINT_DISABLE": "1", **(variables or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"terraform {' '.join(words)}: {done.stdout}{done.stderr}")
    return done


def init(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> None:
    """`terraform init`; skips the test where a provider cannot be had here."""
    done = run(folder, "init", "-no-color", *words, check=False, variables=env)
    if done.returncode == 0:
        return
    if "Failed to query available provider packages" in done.stderr:
        pytest.skip(f"no provider for Terraform here: {' '.join(done.stderr.split())[:300]}")
    raise AssertionError(done.stdout + done.stderr)


def show(folder: Path, plan: Path) -> dict[str, Any]:
    """A plan as JSON."""
    found: dict[str, Any] = json.loads(run(folder, "show", "-json", str(plan)).stdout)
    return found


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workload(namespace: str, name: str) -> dict[str, Any]:
    """A Deployment of no pods."""
    labels = {"app": name}
    container = {"name": "torchserve", "image": "none"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }
