"""--allow-pickle: it stands in the recipe, and `show` tells what loading a model runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelswitch.archive.verify import read_document
from modelswitch.cli.served_as import archive_line
from modelswitch.registry import RECIPE_TAG
from tests.site import Site
from tests.terminal import Terminal, TwinSwitch


@pytest.fixture
def terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminal]:
    monkeypatch.chdir(tmp_path)
    with Site(tmp_path) as site:
        yield Terminal(site, capsys)


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Each recipe that a build was asked for."""
    asked: list[Any] = []
    build = TwinSwitch.build

    def noted(self: TwinSwitch, ref: Any, **options: Any) -> Any:
        asked.append(options.get("recipe"))
        return build(self, ref, **options)

    monkeypatch.setattr(TwinSwitch, "build", noted)
    return asked


def test_registered_it_is_the_versions_recipe(terminal: Terminal) -> None:
    Path("serving.toml").write_text("[recipe]\nbatch_size = 8\n")
    line = ("register", "runs:/0/model", "--name", "digits", "--allow-pickle", "--json")

    alone = terminal(*line).data["tags"]
    beside = terminal(*line, "--serving", "serving.toml").data["tags"]

    assert json.loads(alone[RECIPE_TAG]) == {"allow_pickle": True}
    assert json.loads(beside[RECIPE_TAG]) == {"batch_size": 8, "allow_pickle": True}


@pytest.mark.parametrize("verb", [("build",), ("promote", "--reason", "it is trusted")])
def test_asked_for_once_it_joins_the_recipe(
    terminal: Terminal, recipes: list[Any], verb: tuple[str, ...]
) -> None:
    Path("serving.toml").write_text("[recipe]\nbatch_size = 8\n")
    Path("other.toml").write_text("[recipe]\nthreads = 2\n")
    terminal("register", "runs:/0/model", "--name", "digits", "--serving", "serving.toml")
    word, *more = verb

    for recipe in ((), ("--recipe", "other.toml")):
        assert terminal(word, "digits@1", "--allow-pickle", *recipe, *more).exit == 0

    assert recipes == [
        {"batch_size": 8, "allow_pickle": True},
        {"threads": 2, "allow_pickle": True},
    ]


def test_show_says_what_runs_code(terminal: Terminal) -> None:
    terminal.stand("1")
    slot = terminal.site.slot("1")
    with terminal.site.store.open(slot.digest) as stream:
        document = read_document(stream)[0]
    told = "runs code that came with it when it is loaded"

    [archive] = terminal("show", "digits@1", "--json").data["archives"]

    assert archive["runs_code"] is False
    assert told not in archive_line(document, slot, None)
    assert told in archive_line(document.model_copy(update={"runs_code": True}), slot, None)
