"""The Terraform module takes the very text that ModelSwitch renders."""

from __future__ import annotations

from pathlib import Path

from modelswitch.line import Head, Kind, Line, Slot
from modelswitch.pins import parse, render
from modelswitch.settings import pins_name
from tests import terraform

RECORDED = terraform.TREE / "modules" / "pins" / "tests" / "pins.json"


def test_the_recorded_text_is_what_is_rendered_today() -> None:
    back = Slot("3", "sha256:" + "ab" * 32)
    serving = Slot("4", "sha256:" + "cd" * 32, workers=2)
    candidate = Slot("1", "sha256:" + "ef" * 32)
    heads = {
        "digits": Head(Kind.SETTLED, Line((serving, back), pool="classifier")),
        "scaler": Head(Kind.SETTLED, Line((), (candidate,), pool="features")),
    }
    expected = render(heads, deployment="local", generation=17).text
    assert RECORDED.read_text(encoding="utf-8") == expected
    assert parse(expected).text == expected


def test_the_settings_and_the_module_name_a_config_map_alike() -> None:
    # The module's own tests say the same of it.
    assert pins_name("My_Shop.") == "modelswitch-pins-my-shop"


@terraform.installed
def test_the_module_passes_its_own_tests(tmp_path: Path) -> None:
    module = terraform.copy(tmp_path) / "modules" / "pins"
    terraform.run(module, "init")
    terraform.run(module, "test")
