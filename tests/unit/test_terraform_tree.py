"""All of terraform/: its form, its own tests, and examples that fit the program they are for."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelswitch.pins import render
from modelswitch.settings import load
from tests import terraform
from tests.terraform import TREE

EXAMPLES = TREE / "examples"


@terraform.installed
def test_it_is_formatted_and_can_be_read() -> None:
    terraform.run(TREE, "fmt", "-check", "-recursive", "-diff")


@terraform.installed
def test_the_serving_module_passes_its_own_tests(tmp_path: Path) -> None:
    module = terraform.copy(tmp_path) / "modules" / "serving"
    terraform.init(module)
    terraform.run(module, "test")


@terraform.installed
@pytest.mark.parametrize(
    "name", ["cluster", "regions", "archives/s3", "archives/gcs", "archives/azure"]
)
def test_an_example_is_valid(tmp_path: Path, name: str) -> None:
    root = terraform.copy(tmp_path) / "examples" / name
    terraform.init(root, "-backend=false")
    terraform.run(root, "validate")


@pytest.mark.parametrize("name", ["cluster", "regions"])
def test_an_example_starts_without_models(name: str) -> None:
    settings = load(file=EXAMPLES / name / "modelswitch.toml")
    assert settings.fleet.pins_file is not None
    expected = render({}, deployment=settings.deployment, generation=0).text
    assert settings.fleet.pins_file.read_text(encoding="utf-8") == expected


@pytest.mark.parametrize("file", sorted(EXAMPLES.rglob("*.toml")), ids=lambda file: file.name)
def test_an_examples_settings_are_some(file: Path) -> None:
    settings = load(file=file)
    assert settings.fleet.kind == "kubernetes"
    assert settings.config_map == "modelswitch-pins-production"
    assert settings.fleet.terraform_dir in (None, file.parent)
