"""Dockerfiles as tests read them: stages of instructions, as far as ours go."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCKERFILES = sorted((ROOT / "serving").glob("*/Dockerfile"))


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: `COPY`, and what follows it, on one line."""

    word: str
    text: str

    @property
    def words(self) -> list[str]:
        """Of the JSON form, or as a shell would split them."""
        if self.text.startswith("["):
            return [str(word) for word in json.loads(self.text)]
        return shlex.split(self.text)

    @property
    def flags(self) -> dict[str, str]:
        """`--from=build` as {"from": "build"}."""
        found = re.match(r"(--\S+\s+)*", self.text)
        given = found.group().split() if found else []
        return dict(flag.removeprefix("--").split("=", 1) for flag in given)


@dataclass(frozen=True, slots=True)
class Stage:
    """What stands below one FROM. The last stage is the image."""

    base: str
    name: str | None
    instructions: tuple[Instruction, ...]

    def all(self, word: str) -> list[Instruction]:
        return [each for each in self.instructions if each.word == word]

    def last(self, word: str) -> list[str]:
        """The words of the last instruction of that kind."""
        return self.all(word)[-1].words

    @property
    def env(self) -> dict[str, str]:
        return _pairs(self.all("ENV"))

    @property
    def labels(self) -> dict[str, str]:
        return _pairs(self.all("LABEL"))

    @property
    def copies(self) -> Iterator[tuple[list[str], str]]:
        """Sources in the build context and the destination; copies from stages are left out."""
        for each in self.all("COPY"):
            if "from" not in each.flags:
                *sources, destination = each.words
                yield sources, destination


def stages(dockerfile: Path) -> list[Stage]:
    """The stages, in order. An ARG before the first FROM is in none."""
    found: list[Stage] = []
    for each in instructions(dockerfile):
        if each.word == "FROM":
            base, *name = each.words
            found.append(Stage(base, name[1] if name else None, ()))
        elif found:
            last = found[-1]
            found[-1] = Stage(last.base, last.name, (*last.instructions, each))
    return found


def instructions(dockerfile: Path) -> Iterator[Instruction]:
    lines = dockerfile.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word:
            yield Instruction(word.upper(), rest.strip())


def _pairs(given: list[Instruction]) -> dict[str, str]:
    return dict(word.split("=", 1) for each in given for word in each.words)


def lay_out(stage: Stage, folder: Path) -> None:
    """What the stage copies from the build context, below `folder` as its root, read-only."""
    for sources, destination in stage.copies:
        target = folder / destination.lstrip("/")
        target.mkdir(parents=True, exist_ok=True)
        for source in sources:
            Path(shutil.copy(ROOT / source, target)).chmod(0o444)
    for made in (folder, *folder.rglob("*")):
        if made.is_dir():
            made.chmod(0o555)
