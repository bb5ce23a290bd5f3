"""One list of pools, and what Kustomize makes of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.manifests import K8S

TOOL = K8S / "pools.py"


def pools(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, words)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    return Path(shutil.copytree(K8S / "overlays" / "production", tmp_path / "production"))


def test_the_files_in_the_repository_are_those_of_the_list() -> None:
    checked = pools("--check")
    assert checked.returncode == 0, checked.stdout


def test_check_names_what_differs_and_writing_mends_it(overlay: Path) -> None:
    (overlay / "pools" / "features" / "kustomization.yaml").write_text("by hand")
    (overlay / "pools" / "leftover").write_text("of an editor")
    checked = pools(overlay, "--check")
    assert checked.returncode == 1
    assert "features/kustomization.yaml is not what" in checked.stdout
    assert "leftover is not what" in checked.stdout
    assert pools(overlay).returncode == 0
    assert pools(overlay, "--check").returncode == 0


def test_a_pool_that_is_no_longer_listed_goes(overlay: Path) -> None:
    (overlay / "pools.toml").write_text("[big]\nreplicas = 1\nmax_replicas = 1\ngpus = 8\n")
    assert pools(overlay).returncode == 0
    assert [p.name for p in sorted((overlay / "pools").iterdir())] == ["big", "kustomization.yaml"]
    assert 'nvidia.com/gpu: "8"' in (overlay / "pools/big/kustomization.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no pool in it"),
        ("[Big]\nreplicas = 1\nmax_replicas = 1\ngpus = 0", "lower-case"),
        ("[big]\nreplicas = 3\nmax_replicas = 2\ngpus = 0", "replicas <= max_replicas"),
        ("[big]\nreplicas = 0\nmax_replicas = 2\ngpus = 0", "1 <= replicas"),
        ('[big]\nreplicas = "2"\nmax_replicas = 2\ngpus = 0', "whole numbers"),
        ("[big]\nreplicas = 2", "[big] with gpus, max_replicas, replicas"),
        ("[big]\nreplicas = 2\nmax_replicas = 2\ngpus = 0\nzone = 1", "[big] with gpus"),
        ("replicas = 2", "a pool is a table"),
        ("[big", "Expected ']'"),
    ],
)
def test_a_list_that_cannot_be_is_refused_and_nothing_written(
    overlay: Path, text: str, said: str
) -> None:
    (overlay / "pools.toml").write_text(text)
    refused = pools(overlay)
    assert refused.returncode == 2
    assert "pools.toml" in refused.stderr
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr
    assert (overlay / "pools" / "classifier").is_dir()
