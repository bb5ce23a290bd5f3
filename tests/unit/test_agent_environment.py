"""Whose packages are reported: those beside the agent, or what a file tells of the worker's."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path

from modelswitch.agent.environment import environment
from modelswitch.reports import Environment


def test_without_a_file_it_is_our_own() -> None:
    found = environment(None)()
    assert found.python == platform.python_version()
    assert found.packages["pydantic-core"] == importlib.metadata.version("pydantic_core")


def test_a_file_that_appears_later_is_read_then_and_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "environment.json"
    told = environment(file)
    assert told() == Environment()

    file.write_text(json.dumps({"python": "3.11.7", "packages": {"Torch_X": "2.14.1"}}))
    first = told()
    assert (first.python, first.packages) == ("3.11.7", {"torch-x": "2.14.1"})
    assert told() is first

    file.write_text(json.dumps({"python": "3.12.0", "packages": {"torch": "2.15.0"}}))
    second = told()
    assert second.packages == {"torch": "2.15.0"}
    assert second.packages_sha256 != first.packages_sha256


def test_a_file_that_is_half_written_leaves_what_was_known(tmp_path: Path) -> None:
    file = tmp_path / "environment.json"
    told = environment(file)
    file.write_text('{"python": "3.11.7"}')
    known = told()
    for text in ("", "[]", '{"python": 3}', '{"packages": {}}'):
        file.write_text(text)
        assert told() == known
    file.unlink()
    assert told() == known
