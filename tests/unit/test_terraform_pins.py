"""The Terraform module takes the very text that ModelSwitch renders."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from modelswitch.line import Head, Kind, Line, Slot
from modelswitch.pins import parse, render

MODULE = Path(__file__).parents[2] / "terraform" / "modules" / "pins"
RECORDED = MODULE / "tests" / "pins.json"


def test_the_recorded_text_is_what_is_rendered_today() -> None:
    back = Slot("3", "sha256:" + "ab" * 32)
    serving = Slot("4", "sha256:" + "cd" * 32, workers=2)
    candidate = Slot("1", "sha256:" + "ef" * 32)
    heads = {
        "digits": Head(Kind.SETTLED, Line((serving, back))),
        "scaler": Head(Kind.SETTLED, Line((), (candidate,))),
    }
    rendered = render(heads, deployment="local", generation=17)
    pools = {"digits": "classifier", "scaler": "features"}
    models = {n: m.model_copy(update={"pool": pools[n]}) for n, m in rendered.models.items()}
    expected = rendered.model_copy(update={"models": models}).text
    assert RECORDED.read_text(encoding="utf-8") == expected
    assert parse(expected).text == expected


@pytest.mark.skipif(shutil.which("terraform") is None, reason="Terraform is not installed")
def test_the_module_passes_its_own_tests(tmp_path: Path) -> None:
    module = shutil.copytree(MODULE, tmp_path / "pins")
    # A variable that names a missing file only makes Terraform warn.
    env = {k: v for k, v in os.environ.items() if k != "TF_CLI_CONFIG_FILE"}
    for words in (["init", "-input=false"], ["test"], ["fmt", "-check", "-recursive"]):
        done = subprocess.run(
            ["terraform", *words], cwd=module, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
