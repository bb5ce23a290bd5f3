"""How people name a version: digits@3, digits@champion (an alias), digits@staging."""

from __future__ import annotations

import re
from dataclasses import dataclass

from modelswitch.errors import UsageError
from modelswitch.line import Stage

# TorchServe takes a model's name into URLs and file names; MLflow allows far more.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")
_NUMBER = re.compile(r"[0-9]{1,18}")  # str.isdigit would take ٣ and ², which int() does not
_ALIAS = re.compile(r"(?![0-9]+\Z)[A-Za-z0-9_-]+")
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{8,64})")
_LABEL = re.compile(r"([0-9]{1,18})-([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model's name and what follows the @: a version, a stage, an alias, or nothing.

    `digits@3` · `digits@staging` · `digits@champion` · `digits@3:ab12cd34` (one of several
    archives of version 3) · `digits`.
    """

    name: str
    version: str | None = None
    stage: Stage | None = None
    alias: str | None = None
    digest8: str | None = None

    def __str__(self) -> str:
        tail = self.version or self.stage or self.alias
        if self.version and self.digest8:
            tail = f"{self.version}:{self.digest8}"
        return f"{self.name}@{tail}" if tail else self.name


def check_name(name: str) -> str:
    """The name, if both MLflow and TorchServe can carry it."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"the model name {name!r} cannot be served: a name starts with a letter or digit and "
            "holds only letters, digits, '.', '_' and '-', 127 characters at most",
            next="register the model under such a name: modelswitch register URI --name NAME",
        )
    return name


def parse_ref(text: str) -> ModelRef:
    """Read a reference; raises UsageError with an example on anything else."""
    name, at, tail = text.partition("@")
    if not at and ":" in name:
        model, _, rest = name.partition(":")
        is_digest = _DIGEST.fullmatch(rest) and not _NUMBER.fullmatch(rest)
        guess = f"{model}@VERSION:{rest}" if is_digest else f"{model}@{rest}"
        raise UsageError(f"{text!r} is no reference to a version", next=f"is {guess} meant?")
    check_name(name)
    if not at:
        return ModelRef(name)
    if not tail:
        raise UsageError(f"{text!r} names no version after the @", next=f"{name}@3")
    number, colon, digest = tail.partition(":")
    if _NUMBER.fullmatch(number):
        if not colon:
            return ModelRef(name, version=str(int(number)))
        match = _DIGEST.fullmatch(digest)
        if not match:
            raise UsageError(
                f"{text!r}: after the version's colon come at least 8 hex digits of a digest",
                next=f"{name}@{number}:ab12cd34",
            )
        return ModelRef(name, version=str(int(number)), digest8=match.group(1)[:8])
    if tail.lower() in set(Stage):
        return ModelRef(name, stage=Stage(tail.lower()))
    if not _ALIAS.fullmatch(tail):
        raise UsageError(
            f"{text!r}: after the @ comes a version, a stage or an alias", next=f"{name}@3"
        )
    return ModelRef(name, alias=tail)


def label_meant(ref: ModelRef) -> ModelRef | None:
    """`digits@1:8273554e` for `digits@1-8273554e`: servers' labels are no references, and an alias
    may be called so; None for what does not look like a label."""
    match = _LABEL.fullmatch(ref.alias or "")
    return ModelRef(ref.name, version=match[1], digest8=match[2]) if match else None


def parse_stage(text: str) -> Stage:
    """A stage in any case; raises UsageError naming the allowed ones."""
    try:
        return Stage(text.lower())
    except ValueError:
        raise UsageError(f"unknown stage {text!r}", next="one of: " + ", ".join(Stage)) from None
