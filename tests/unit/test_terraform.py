"""Publishing by the real Terraform, on a root module that needs no provider."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelswitch import effects
from modelswitch.errors import FleetUnreachable, PlanRefused, TerraformFailed
from modelswitch.fleet import terraform as room
from modelswitch.fleet.terraform import Terraform
from tests import terraform
from tests.plans import NEW, OLD

pytestmark = terraform.installed

MAIN = """
module "pins" {
  source = "./pins"
  text   = file("${path.module}/pins.json")
}

resource "terraform_data" "published" {
  input = module.pins.text
}
"""
# It goes on until somebody writes into the pipe, and tells that it has begun.
BLOCKS = """
resource "terraform_data" "blocks" {
  triggers_replace = module.pins.generation

  provisioner "local-exec" {
    command = "touch begun && read line < pipe"
  }
}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (terraform.copy(tmp_path) / "modules" / "pins").rename(folder / "pins")
    (folder / "main.tf").write_text(MAIN)
    (folder / "pins.json").write_text(NEW.text)
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The plans that were asked about: no ConfigMap is here, and nothing speaks against one."""
    asked: list[Any] = []

    def never(plan: Any, **_: Any) -> list[str]:
        asked.append(plan)
        return []

    monkeypatch.setattr(room, "objections", never)
    return asked


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def opened(root: Path, **asked: Any) -> Terraform:
    return Terraform(
        root, namespace="modelswitch", config_map="modelswitch-pins-production", **asked
    )


@pytest.fixture
def steps() -> Iterator[list[str]]:
    """The effects that have begun."""
    found: list[str] = []

    def begin(name: str, side: str) -> None:
        if side == "before":
            found.append(name)

    with effects.watching(boundary=begin):
        yield found


def published(root: Path) -> str:
    resources = json.loads(terraform.run(root, "show", "-json").stdout)["values"]["root_module"][
        "resources"
    ]
    held: str = next(r["values"]["input"] for r in resources if r["name"] == "published")
    return held


def test_the_very_text_is_applied(root: Path, lenient: list[Any], steps: list[str]) -> None:
    opened(root).apply(NEW, OLD)

    assert published(root) == NEW.text
    assert steps == ["terraform.plan", "terraform.apply"]


def test_nothing_is_applied_twice(root: Path, lenient: list[Any], steps: list[str]) -> None:
    opened(root).apply(NEW, OLD)
    steps.clear()
    opened(root).apply(NEW, NEW)

    assert steps == ["terraform.plan"]
    assert len(lenient) == 2


def test_a_plan_that_is_refused_is_not_applied(root: Path, private: Path) -> None:
    with pytest.raises(PlanRefused, match="no ConfigMap modelswitch/modelswitch-pins-production"):
        opened(root).apply(NEW, OLD)

    assert "published" not in terraform.run(root, "show", "-json").stdout
    assert list(private.iterdir()) == []


def test_a_plan_is_its_owners_alone_and_does_not_stay(
    root: Path, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    def look(*_: Any, **__: Any) -> list[str]:
        modes.extend(folder.stat().st_mode & 0o777 for folder in private.iterdir())
        return []

    monkeypatch.setattr(room, "objections", look)
    opened(root).apply(NEW, OLD)

    assert modes == [0o700]
    assert list(private.iterdir()) == []


def test_what_terraform_wants_initialized_anew_is(root: Path, lenient: list[Any]) -> None:
    opened(root).apply(OLD, None)
    (root / "more.tf").write_text(
        'module "more" {\n  source = "./pins"\n  text   = file("${path.module}/pins.json")\n}\n'
    )
    opened(root).apply(NEW, OLD)

    assert published(root) == NEW.text


def overtaken(root: Path, times: int) -> Callable[..., list[str]]:
    """Somebody applies OLD after each of so many plans, and before they are applied."""
    plans: list[Any] = []

    def overtake(plan: Any, **_: Any) -> list[str]:
        plans.append(plan)
        if len(plans) <= times:
            (root / "pins.json").write_text(OLD.text)
            terraform.run(root, "apply", "-auto-approve", "-replace=terraform_data.published")
            (root / "pins.json").write_text(NEW.text)
        return []

    return overtake


def test_a_plan_that_others_have_overtaken_is_made_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "objections", overtaken(root, 1))
    opened(root).apply(NEW, OLD)

    assert published(root) == NEW.text


def test_who_is_overtaken_twice_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "objections", overtaken(root, 2))
    with pytest.raises(TerraformFailed, match="Saved plan is stale"):
        opened(root).apply(NEW, OLD)

    assert published(root) == OLD.text


def test_a_lock_that_somebody_holds(
    root: Path, lenient: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_LOCK_S", 1)
    terraform.init(root)
    (root / "main.tf").write_text(MAIN + BLOCKS)
    other = subprocess.Popen(
        ["terraform", "apply", "-auto-approve"],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    terraform.wait_for((root / "begun").exists)
    with pytest.raises(FleetUnreachable, match=r"holds the lock[^$]*Who:"):
        opened(root).apply(NEW, OLD)

    (root / "pipe").write_text("go on\n")
    assert other.wait(60) == 0


def test_what_takes_too_long_is_interrupted_and_leaves_no_lock(
    root: Path, lenient: list[Any], private: Path
) -> None:
    terraform.init(root)
    (root / "main.tf").write_text(MAIN + BLOCKS)
    with pytest.raises(FleetUnreachable, match=r"terraform apply .* did not end within 10 s"):
        opened(root, timeout_s=10).apply(NEW, OLD)

    assert (root / "begun").exists()
    assert list(private.iterdir()) == []
    terraform.run(root, "plan", "-lock-timeout=0s")


def test_ctrl_c_lets_terraform_release_its_lock(
    root: Path, lenient: list[Any], private: Path
) -> None:
    terraform.init(root)
    (root / "main.tf").write_text(MAIN + BLOCKS)

    def interrupt() -> None:
        terraform.wait_for((root / "begun").exists)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        opened(root).apply(NEW, OLD)
    thread.join()

    assert list(private.iterdir()) == []
    terraform.run(root, "plan", "-lock-timeout=0s")


def test_terraforms_own_words_without_secrets(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_VAR_token", "s3cret-of-mine")
    (root / "wrong.tf").write_text(
        'variable "token" {\n  type = string\n  validation {\n    condition = var.token == ""\n'
        '    error_message = "Bad: ${var.token} at https://me:s3cret@host, Bearer abc.def"\n'
        "  }\n}\n"
    )
    with pytest.raises(TerraformFailed) as caught:
        opened(root).apply(NEW, OLD)

    said = caught.value.message
    assert "Error: Invalid value for variable" in said
    assert "Bad: *** at https://***@host, Bearer ***" in " ".join(said.split())


def test_pins_that_the_module_refuses(root: Path) -> None:
    (root / "pins.json").write_text(NEW.text.replace('"default": "4-', '"default": "5-'))
    with pytest.raises(TerraformFailed, match="not among the slots"):
        opened(root).apply(NEW, OLD)


def test_a_state_that_does_not_answer(root: Path) -> None:
    (root / "state.tf").write_text(
        'terraform {\n  backend "http" {\n    address   = "http://127.0.0.1:9/state"\n'
        "    retry_max = 0\n  }\n}\n"
    )
    with pytest.raises(FleetUnreachable, match="connection refused"):
        opened(root).apply(NEW, OLD)


def test_no_terraform_at_all(root: Path) -> None:
    with pytest.raises(TerraformFailed, match="no-such-program: No such file"):
        opened(root, program="no-such-program").apply(NEW, OLD)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(TerraformFailed, match="nowhere: No such file"):
        opened(tmp_path / "nowhere").apply(NEW, OLD)
