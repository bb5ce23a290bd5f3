"""serving.toml: what is kept of it, what is refused, and what registering again does."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelswitch.archive.recipe import Recipe
from modelswitch.archive.serving import own_words, parse_serving
from modelswitch.cli.documents import read_inputs, read_recipe, read_serving
from modelswitch.errors import UsageError
from modelswitch.registry import ABOUT_TAG, RECIPE_TAG
from tests.site import Site
from tests.terminal import Terminal

FILE = """
[recipe]
batch_size = 8
memory_limit = "1GiB"

[about]
task = "classification"
latency_sla_ms = 50
memory_budget = "600MB"
"""


def test_what_was_written_is_kept_and_no_default() -> None:
    serving = parse_serving(FILE, source="serving.toml")
    assert serving.recipe == {"batch_size": 8, "memory_limit_bytes": 1 << 30}
    assert serving.about == {
        "task": "classification",
        "latency_sla_ms": 50,
        "memory_budget_bytes": 600_000_000,
    }
    assert own_words(Recipe(batch_size=8).model_dump(), Recipe) == {"batch_size": 8}


@pytest.mark.parametrize(
    ("text", "said", "allowed"),
    [
        ("[recipe]\nbatchsize = 8", "recipe: there is no batchsize; is batch_size", "batch_size"),
        ("[recipe]\nbatch_size = 0", r"recipe.batch_size: .*greater than or equal to 1, got 0", ""),
        ("[recipe]\nbatch_size = '8'", "recipe.batch_size: .*integer, got '8'", ""),
        ("[recipe]\nengine = 'tpu'", "recipe.engine: .*'bf16', got 'tpu'", ""),
        ("[recipe]\nhandler_release = 'x'", "recipe: there is no handler_release", "handler"),
        ("[recipe]\ncrop = 3", "recipe: there is no crop", "image"),
        ("[recipe.image]\ntopp = 3", "recipe.image: there is no topp; is top meant", "labels"),
        ("[about]\nmemory_budget = 'much'", "about.memory_budget: 'much' is no size", "500MB"),
        ("[about]\nmemory_budget = 0", "about.memory_budget_bytes: .*greater than 0, got 0", ""),
        ("[about]\nmemory_budget = 1\nmemory_budget_bytes = 1", "about has memory_budget and", ""),
        ("[abuot]\ntask = 'x'", "there is no abuot; is about meant", "recipe, about"),
        ("recipe = 3", "recipe is a table", r"\[recipe\]"),
        ("[recipe", "is not TOML", ""),
        ("[recipe]\nbatch_size = " + "9" * 5000, "is not TOML: .*4300 digits", "correct"),
        ("[recipe]\nbatch_size = 0x" + "f" * 5000, "recipe.batch_size: .*thousands of digits", ""),
        ("[recipe]\nmemory_limit = '999999EB'", "memory_limit_bytes: more .* any machine has", ""),
        ("[recipe]\nmemory_limit = '" + "9" * 400 + ".5EB'", "recipe.memory_limit: .* no size", ""),
        ("[about]\nmemory_budget = '999999EB'", "memory_budget_bytes: more .* machine has", ""),
        ("[about]\nlatency_sla_ms = inf", "about.latency_sla_ms: .*finite number, got inf", ""),
        ("[recipe.image]\nmean = [nan, 0, 0]\nstd = [1, 1, 1]", "mean.*finite number, got nan", ""),
        ("[recipe.image]\nmean = [0, 0, 0]\nstd = [inf, 1, 1]", "std.*finite number, got inf", ""),
        ("[recipe.image]\nmean = [0, 0, 0]\nstd = [0, 1, 1]", "std.*greater than 0, got 0", ""),
    ],
)
def test_what_is_wrong_is_named_with_the_file_and_what_may_stand(
    text: str, said: str, allowed: str
) -> None:
    with pytest.raises(UsageError, match="my.toml.*" + said) as refused:
        parse_serving(text, source="my.toml")
    assert re.search(allowed, refused.value.next or "")
    assert refused.value.next


@pytest.fixture
def terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminal]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "serving.toml").write_text(FILE)
    with Site(tmp_path) as site:
        yield Terminal(site, capsys)


def tags(terminal: Terminal) -> Mapping[str, Any]:
    found = terminal.registry.known["digits", "1"].tags
    return {tag: json.loads(found[tag]) for tag in (ABOUT_TAG, RECIPE_TAG)}


REGISTER = ("register", "runs:/0/model", "--name", "digits", "--serving", "serving.toml")


def test_both_tables_become_tags_and_are_shown(terminal: Terminal) -> None:
    assert terminal(*REGISTER).exit == 0
    assert tags(terminal)[RECIPE_TAG] == {"batch_size": 8, "memory_limit_bytes": 1 << 30}
    said = terminal("show", "digits@1")
    assert (
        "about: task classification, latency SLA 50 ms, memory budget 600 MB\n"
        "registered recipe: batch_size 8, memory_limit_bytes 1073741824\n"
    ) in said.out
    assert "tag modelswitch" not in said.out
    data = terminal("show", "digits@1", "--json").data
    assert data["registered_recipe"]["batch_size"] == 8
    assert data["about"]["memory_budget_bytes"] == 600_000_000


def test_a_wrong_file_registers_nothing(terminal: Terminal) -> None:
    Path("serving.toml").write_text("[recipe]\nbatchsize = 8")
    said = terminal(*REGISTER)
    assert (said.exit, terminal.registry.known) == (2, {})
    assert "error: serving.toml: recipe: there is no batchsize; is batch_size meant?" in said.err


def test_registering_again_says_what_it_changed_and_what_not(terminal: Terminal) -> None:
    terminal(*REGISTER)
    made = terminal.registry.known["digits", "1"]
    former = {RECIPE_TAG: '{"batch_size": 2}', ABOUT_TAG: "{}"}
    terminal.registry.register = lambda *_, **__: replace(made, former=former)  # type: ignore[method-assign]
    said = terminal(*REGISTER)
    assert said.out.splitlines()[1:] == [
        'its about is now: task "classification" (before: as by default), latency_sla_ms 50 '
        "(before: as by default), memory_budget_bytes 600000000 (before: as by default)",
        "its recipe is now: batch_size 8 (before: 2), memory_limit_bytes 1073741824 "
        "(before: as by default)",
        "An archive that is loaded keeps the recipe it was built with. To serve this one: "
        'modelswitch promote digits@1 --recipe serving.toml --reason "…"',
    ]
    assert terminal(*REGISTER, "--json").data["changed"] == [ABOUT_TAG, RECIPE_TAG]


@pytest.mark.parametrize(
    "text",
    [
        FILE,
        "\ufeff" + FILE,
        '\ufeff{"batch_size": 8, "memory_limit": "1GiB"}',
        '{"batch_size": 8, "memory_limit": "1GiB"}',
    ],
)
def test_a_recipe_is_read_from_toml_and_from_json(tmp_path: Path, text: str) -> None:
    file = tmp_path / "recipe"
    file.write_text(text)
    assert read_recipe(file) == {"batch_size": 8, "memory_limit_bytes": 1 << 30}


READERS = pytest.mark.parametrize("read", [read_recipe, read_serving])


@READERS
def test_a_file_that_is_too_large_is_refused(
    tmp_path: Path, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"#" * 1_000_001
    (tmp_path / "large.toml").write_bytes(text)
    with pytest.raises(UsageError, match=r"large.toml is longer than the 1,000,000 bytes"):
        read(tmp_path / "large.toml")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    with pytest.raises(UsageError, match="standard input is longer than the 1,000,000 bytes"):
        read(Path("-"))


def test_inputs_may_be_larger_and_a_number_too_long_is_no_json(tmp_path: Path) -> None:
    file = tmp_path / "inputs.json"
    file.write_text("[" + "1," * 600_000 + "1]")
    assert read_inputs(file) == file.read_bytes()
    file.write_text("[" + "9" * 5000 + "]")
    with pytest.raises(UsageError, match=r"is not JSON: .*4300 digits"):
        read_inputs(file)
