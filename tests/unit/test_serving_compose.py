"""The compose file: valid, closed to the outside, and right about the images and the settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelswitch.settings import load
from tests.dockerfile import ROOT, stages

SERVING = ROOT / "serving"
FILE = SERVING / "compose.yaml"
OURS = ("mlflow", "torchserve", "agent", "modelswitch")


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load(FILE.read_text())


def test_it_is_what_the_schema_of_compose_allows() -> None:
    check = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec")
    done = subprocess.run([*check, str(FILE)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_docker_compose_takes_it(tmp_path: Path) -> None:
    asked = ["docker", "compose", "version"]
    try:
        has_plugin = subprocess.run(asked, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        has_plugin = False
    if not has_plugin:
        pytest.skip("docker's compose plugin is not installed")
    (tmp_path / ".env").write_text((SERVING / "env.example").read_text() + "PGPASSWORD=secret\n")

    config = ["config", "--quiet"]
    asked = ["docker", "compose", "--file", str(FILE), "--env-file", str(tmp_path / ".env")]
    done = subprocess.run([*asked, *config], check=False, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_is_published_but_on_loopback(compose: Any) -> None:
    published = [port for s in compose["services"].values() for port in s.get("ports", [])]

    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []
    assert not any("8081" in port for port in published)
    assert "ports" not in compose["services"]["postgres"]


def test_who_runs_model_code_has_no_password(compose: Any) -> None:
    having = {
        n for n, s in compose["services"].items() if "PGPASSWORD" in str(s.get("environment"))
    }

    assert having == {"postgres", "mlflow", "modelswitch"}


def test_our_containers_are_confined(compose: Any) -> None:
    for name in OURS:
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "user" not in service  # the image's


def test_a_volume_stands_where_the_image_has_a_folder_of_its_user(compose: Any) -> None:
    for name in OURS:
        service = compose["services"][name]
        image = stages(ROOT / service["build"]["dockerfile"])[-1]
        made = next(run.words for run in image.all("RUN") if "install" in run.words)
        folders = {*made[made.index("install") :], *image.last("VOLUME")}
        mounted = {volume.split(":")[1] for volume in service["volumes"]}
        assert mounted <= folders, name


def test_volumes_lie_where_the_settings_say(compose: Any) -> None:
    for name, service in compose["services"].items():
        targets = [volume.split(":")[1] for volume in service["volumes"]]
        paths = [
            value.removeprefix("file://")
            for key, value in service.get("environment", {}).items()
            if key.startswith("MODELSWITCH_") and value.removeprefix("file://").startswith("/")
        ]
        assert all(any(path.startswith(target) for target in targets) for path in paths), name


@pytest.mark.parametrize("name", ["agent", "modelswitch"])
def test_the_variables_are_settings(
    compose: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = compose["services"][name]
    image = stages(ROOT / service["build"]["dockerfile"])[-1]
    for key, value in {**image.env, **service["environment"]}.items():
        if key.startswith("MODELSWITCH_"):
            monkeypatch.setenv(key, value)

    settings = load(start=tmp_path)

    assert settings.deployment == "compose"
    assert settings.store == "file:///archives"
    assert str(settings.fleet_path) == "/fleet"
