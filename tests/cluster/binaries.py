"""The control plane's programs: from KUBEBUILDER_ASSETS, else built once from our go.mod.

What is built is kept outside the checkout, in a folder named for go.mod, go.sum and Go's
version. Each program gets there by a rename, so a killed build leaves nothing half.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ASSETS = "KUBEBUILDER_ASSETS"
PROGRAMS = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "kwok": "sigs.k8s.io/kwok/cmd/kwok",
}
# How kwok moves nodes and pods along: YAML files of its module, here as one
STAGES = "kwok-stages.yaml"
_STAGE_FOLDERS = ("node/fast", "node/heartbeat-with-lease", "pod/fast")
_BUILDING = ".building-"


class Unavailable(Exception):
    """No Go, and not all programs given: the reason, for a skip."""


class BuildFailed(Exception):
    """What Go said."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where each program and kwok's stages are."""

    files: dict[str, Path]

    def __getitem__(self, name: str) -> Path:
        return self.files[name]


def find_or_build(announce: Callable[[str], None] = print) -> Binaries:
    """Every program, built where it is missing: minutes the first time, then nothing.

    `announce` is told what is being built. Raises Unavailable without Go, BuildFailed when Go
    cannot build.
    """
    names = (*PROGRAMS, STAGES)
    files = {name: path for name in names if (path := _asset(name)) is not None}
    missing = [name for name in names if name not in files]
    if missing:
        _need_go(missing)
        folder = _cache_folder()
        _build([name for name in missing if not (folder / name).is_file()], folder, announce)
        files |= {name: folder / name for name in missing}
    return Binaries(files)


def _asset(name: str) -> Path | None:
    given = os.environ.get(ASSETS)
    path = Path(given) / name if given else None
    return path if path and path.is_file() else None


def _need_go(missing: list[str]) -> None:
    if shutil.which("go") is None:
        raise Unavailable(
            f"no control plane for cluster tests: Go is not installed and {ASSETS} "
            f"({os.environ.get(ASSETS, 'not set')}) has no {', '.join(missing)}"
        )


def _cache_folder() -> Path:
    key = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        key.update((HERE / name).read_bytes())
    key.update(_go("env", "GOVERSION", "GOOS", "GOARCH").encode())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "modelswitch" / "control-plane" / key.hexdigest()[:16]


def _build(names: list[str], folder: Path, announce: Callable[[str], None]) -> None:
    if not names:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        for stale in folder.glob(_BUILDING + "*"):  # we hold the lock: nobody is building there
            shutil.rmtree(stale)
        with tempfile.TemporaryDirectory(prefix=_BUILDING, dir=folder) as made:
            for name in names:
                if (folder / name).is_file():  # by whom we waited for
                    continue
                announce(f"building {name} for cluster tests, once: {folder}")
                target = Path(made) / name
                if name == STAGES:
                    target.write_text(_stages(), encoding="utf-8")
                else:
                    _go("build", "-ldflags", _linked(), "-o", str(target), PROGRAMS[name])
                target.replace(folder / name)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two test runs at once build once."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _linked() -> str:
    """Kubernetes asks the linker for its own version; else the server says it is v0.0.0."""
    version = _go("list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
    major, minor, _ = version.removeprefix("v").split(".", 2)
    facts = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    sets = [f"-X k8s.io/component-base/version.{key}={value}" for key, value in facts.items()]
    return " ".join(("-s -w", *sets))


def _stages() -> str:
    _go("mod", "download", "sigs.k8s.io/kwok")  # before it is there, its folder is ""
    module = Path(_go("list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"))
    texts = [
        path.read_text(encoding="utf-8")
        for folder in _STAGE_FOLDERS
        for path in sorted((module / "kustomize" / "stage" / folder).glob("*.yaml"))
        if path.name != "kustomization.yaml"
    ]
    return "---\n".join(texts)


def _go(*words: str) -> str:
    env = {**os.environ, "GOFLAGS": "-trimpath -mod=readonly -buildvcs=false", "CGO_ENABLED": "0"}
    done = subprocess.run(
        ["go", *words], cwd=HERE, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BuildFailed(f"go {' '.join(words)} failed in {HERE}:\n{done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":  # before tests in several processes, whose words are not heard
    try:
        find_or_build()
    except (Unavailable, BuildFailed) as found:
        print(found)  # and the tests will say so
