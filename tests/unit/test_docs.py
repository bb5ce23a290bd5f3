"""What the documents say is so: links, commands, settings, error codes, recipes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from modelswitch.archive.recipe import About, Image, Recipe
from modelswitch.archive.serving import Serving, parse_serving
from modelswitch.cli.main import PROGRAM, cli
from modelswitch.errors import ModelSwitchError, UsageError
from modelswitch.settings import _OTHER_VARIABLES, PREFIX, Settings, _section

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        *(ROOT / "README.md", ROOT / "CHANGELOG.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "terraform").rglob("*.md"),
    )
)
FENCED = re.compile(r"^```[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WORDS_OF_PROSE = {"VERB"}


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", path.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", text_of(name)))
    lost = []
    for link in links:
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        if not path.exists() or (anchor and anchor not in anchors(path)):
            lost.append(link)
    assert lost == []


def commands(name: str) -> Iterator[str]:
    """Every `modelswitch …` of a document, in code blocks and in running text."""
    text = text_of(name)
    for block in FENCED.findall(text):
        for line in block.splitlines():
            command = line.removeprefix("$ ")
            if command.startswith(f"{PROGRAM} "):
                yield command.partition(";")[0]
    yield from re.findall(rf"`({PROGRAM} [^`]+)`", FENCED.sub("", text))


def parse(command: str) -> None:
    """Raises click.UsageError where the program would."""
    words = shlex.split(command.replace("\n", " "), comments=True)[1:]
    group, path = cli, PROGRAM
    while True:
        ctx = click.Context(group, info_name=path)
        name, found, rest = group.resolve_command(ctx, words)
        assert found is not None
        if not isinstance(found, click.Group) or not rest or rest[0].startswith("-"):
            break
        group, path, words = found, f"{path} {name}", rest
    if "--help" not in rest:
        found.make_context(name, list(rest), parent=ctx)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_have_verbs_and_flags_that_exist(name: str) -> None:
    wrong = []
    for command in commands(name):
        if WORDS_OF_PROSE.intersection(command.split()):
            continue
        try:
            parse(command)
        except click.UsageError as error:
            wrong.append(f"{command}: {error.format_message()}")
    assert wrong == []


def test_a_command_that_does_not_exist_is_seen() -> None:
    for command in ("modelswitch promot x", "modelswitch promote x --too y", "modelswitch show"):
        with pytest.raises(click.UsageError):
            parse(command)


def test_make_targets_exist_and_are_told_by_make_help() -> None:
    makefile = text_of("Makefile")
    documents = "\n".join(text_of(name) for name in DOCUMENTS)
    named = set(re.findall(r"\bmake ([a-z-]+) *[#`]", documents))
    told = re.findall(r'@echo "make ([a-z, -]+?)  ', makefile)

    assert "install" in named
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert named <= set(", ".join(told).split(", "))


def table(name: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    part = text_of(name).partition(f"\n## {heading}\n")[2]
    rows = re.search(r"((?:^\|.*\n)+)", part, re.MULTILINE)
    assert rows, heading
    lines = rows.group(1).splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def settings() -> dict[str, Any]:
    """Every key and its default."""
    found: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        section = _section(name)
        if section is not None:
            found |= {f"{name}.{key}": f.default for key, f in section.model_fields.items()}
        elif name != "root":
            found[name] = field.default
    return found


def test_every_setting_is_described_with_its_variable_and_default() -> None:
    described = {cells[0].strip("`"): cells for cells in table("docs/settings.md", "Every key")}

    assert list(described) == list(settings())
    for key, default in settings().items():
        _, variable, said, what = described[key]
        assert variable == f"`{PREFIX}{key.upper().replace('.', '__')}`"
        assert what
        if default is not None:
            plain = str(default) if isinstance(default, Path) else default
            assert json.loads(said.strip("`")) == plain, key


def test_every_other_variable_is_described() -> None:
    rows = table("docs/settings.md", "Variables that are no settings")
    ours = {cells[0].strip("`") for cells in rows if PREFIX in cells[0]}

    assert ours == {PREFIX + name for name in _OTHER_VARIABLES}


def test_the_example_of_a_settings_file_is_one(tmp_path: Path) -> None:
    from modelswitch.settings import load

    example = re.search(r"```toml\n(.*?)```", text_of("docs/settings.md"), re.DOTALL)
    assert example
    file = tmp_path / "modelswitch.toml"
    file.write_text(example.group(1), encoding="utf-8")

    assert load(file=file).deployment == "shop"


def errors(kind: type[ModelSwitchError] = ModelSwitchError) -> Iterator[type[ModelSwitchError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == ModelSwitchError.__module__:
            yield from errors(child)


def test_every_error_code_is_explained_with_its_exit_code() -> None:
    rows = table("docs/what-goes-wrong.md", "Every error code")
    explained = {cells[0].strip("`"): int(cells[1]) for cells in rows}

    outermost = {"interrupted": 130, "unexpected": 1}
    assert explained == {e.code: e.exit for e in errors()} | outermost
    assert all(cells[2] and cells[3] for cells in rows)


def test_every_key_of_a_recipe_is_described() -> None:
    for heading, model in (("[recipe]", Recipe), ("[recipe.image]", Image), ("[about]", About)):
        rows = table("docs/serving-toml.md", heading)
        defaults = {cells[0].strip("`"): cells[1].strip("`") for cells in rows}
        keys = [key for key in model.model_fields if key != "handler_release"]

        assert list(defaults) == [key.removesuffix("_bytes") for key in keys]
        assert all(cells[2] for cells in rows)
        for key in keys:
            default = model.model_fields[key].default
            if default is not None:
                assert json.loads(defaults[key]) == default, key
            else:
                assert defaults[key.removesuffix("_bytes")] == "none"


def test_every_example_of_a_serving_file_is_one() -> None:
    examples = [
        text
        for name in DOCUMENTS
        for text in re.findall(r"^```toml serving\.toml\n(.*?)^```$", text_of(name), re.M | re.S)
    ]

    assert len(examples) >= 3
    for example in examples:
        assert parse_serving(example, source="the example") != Serving({}, {})


def test_every_refusal_of_a_serving_file_is_as_shown() -> None:
    shown = re.findall(
        r"```toml refused\n(.*?)```\n\n```text\n(.*?)```", text_of("docs/serving-toml.md"), re.S
    )

    assert len(shown) >= 3
    for example, said in shown:
        with pytest.raises(UsageError) as refused:
            parse_serving(example, source="serving.toml")
        assert said == f"error: {refused.value.message}\nnext: {refused.value.next}\n"


def test_pictures_are_small() -> None:
    pictures = list((ROOT / "docs" / "images").glob("*.png"))

    assert pictures
    assert [p.name for p in pictures if p.stat().st_size > 200_000] == []
