"""Where the control plane's programs come from, and that none is ever half there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.binaries import (
    ASSETS,
    PROGRAMS,
    STAGES,
    Binaries,
    BuildFailed,
    Unavailable,
    find_or_build,
)

# A `go` that builds a file of two lines, and stops after the first while `broken` is there
GO = """#!/bin/sh
case "$1 $2" in
  "env "*) echo go1.99 ;;
  "list -m") case "$4" in *Dir*) echo "$FAKE_MODULE" ;; *) echo v1.2.3 ;; esac ;;
  "build "*)
    echo first > "$5"
    if [ -e "$FAKE_MODULE/broken" ]; then echo "no space left" >&2; exit 1; fi
    echo second >> "$5" ;;
esac
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """kwok's module, of a `go` that stands alone on the PATH; the cache is empty."""
    folder = tmp_path / "module"
    stages = folder / "kustomize" / "stage" / "pod" / "fast"
    stages.mkdir(parents=True)
    (stages / "pod-ready.yaml").write_text("kind: Stage\n")
    (stages / "kustomization.yaml").write_text("kind: Kustomization\n")
    program = tmp_path / "bin" / "go"
    program.parent.mkdir()
    program.write_text(GO)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setenv("FAKE_MODULE", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(ASSETS, raising=False)
    return folder


def test_what_is_missing_is_built_once(module: Path) -> None:
    said: list[str] = []
    found = find_or_build(said.append)
    assert {found[name].read_text() for name in PROGRAMS} == {"first\nsecond\n"}
    assert found[STAGES].read_text() == "kind: Stage\n"
    assert len(said) == len(PROGRAMS) + 1
    assert find_or_build(said.append) == found
    assert len(said) == len(PROGRAMS) + 1


def test_a_build_that_breaks_off_leaves_nothing(module: Path, tmp_path: Path) -> None:
    (module / "broken").touch()
    with pytest.raises(BuildFailed, match="no space left"):
        find_or_build(lambda _: None)
    folder = next((tmp_path / "cache" / "modelswitch" / "control-plane").iterdir())
    assert [file.name for file in folder.iterdir()] == [".lock"]

    # As one that was killed leaves it
    (folder / ".building-killed").mkdir()
    (folder / ".building-killed" / "etcd").write_text("first\n")
    (module / "broken").unlink()
    find_or_build(lambda _: None)
    assert {file.name for file in folder.iterdir()} == {".lock", STAGES, *PROGRAMS}


def test_what_is_given_is_not_built(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "assets"
    given.mkdir()
    (given / "etcd").write_text("given\n")
    monkeypatch.setenv(ASSETS, str(given))
    said: list[str] = []
    assert find_or_build(said.append)["etcd"] == given / "etcd"
    assert not [line for line in said if "etcd" in line]


def test_complete_assets_need_no_go(
    binaries: Binaries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*PROGRAMS, STAGES):
        (tmp_path / name).symlink_to(binaries[name])
    monkeypatch.setenv(ASSETS, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_or_build()["kubectl"] == tmp_path / "kubectl"


def test_without_go_the_reason_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("etcd", "kube-apiserver", "kubectl"):
        (tmp_path / name).touch()
    monkeypatch.setenv(ASSETS, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=r"has no kube-controller-manager, kube-scheduler, kwok"):
        find_or_build()
