"""The verb that tries engines, so that the choice is seen and not guessed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from modelswitch.cli.output import Result, Table, size
from modelswitch.cli.session import Session
from modelswitch.cli.verbs import Verb, complete_model
from modelswitch.errors import UsageError

if TYPE_CHECKING:
    from modelswitch.archive.contest import Tried

_HEADINGS = (
    *("engine", "p50 alone", "a second", "at 8", "memory", "archive"),
    *("deviation", "accuracy", "may serve"),
)


@click.command("engines", cls=Verb, panel="Models")
@click.argument("ref", shell_complete=complete_model)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="An .npz with x and y, or a folder of pictures for each label: accuracy, calibration.",
)
@click.option("--engines", "names", metavar="A,B", help="Only these, and eager.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Another recipe: TOML, JSON.")
@click.pass_obj
def engines(
    session: Session, ref: str, data: Path | None, names: str | None, recipe: Path | None
) -> Result:
    """Try each engine on this machine: speed, memory, size, deviation, accuracy. Stores nothing."""
    from modelswitch.archive.contest import fastest
    from modelswitch.cli.documents import read_recipe
    from modelswitch.refs import parse_ref

    document = read_recipe(recipe) if recipe else None
    wanted = parse_ref(ref)
    chosen = _names(names)
    with session.steps(ref):
        tried = list(session.switch.engines(wanted, engines=chosen, recipe=document, data=data))
    best = fastest(tried)
    lines: list[str | Table] = [Table(_HEADINGS, [_row(one, best) for one in tried])]
    if any(one.deviation for one in tried):
        lines.append("deviation: the largest from eager, in any number of the answers")
    lines += [f"{one.engine}: {one.why}" for one in tried if one.why]
    if data is None and any(one.engine == "int8" for one in tried):
        lines.append(
            "int8 was calibrated with the input example alone; --data shows it real numbers"
        )
    if best is not None:
        lines += _how_to(ref, best)
    facts = {
        "model": wanted.name,
        "threads": 1,
        "engines": [_facts(one) for one in tried],
        "fastest": best.engine if best else None,
    }
    return Result(facts, lines)


def _names(text: str | None) -> list[Any]:
    from modelswitch.archive.contest import ENGINES

    names = [name.strip() for name in text.split(",")] if text else []
    for name in names:
        if name not in ENGINES:
            raise UsageError(f"{name!r} is no engine", next="one of: " + ", ".join(ENGINES))
    return names


def _row(one: Tried, best: Tried | None) -> tuple[str, ...]:
    rates = one.a_second or {}

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return (
        one.engine + (" *" if best is not None and one.engine == best.engine else ""),
        "-" if one.latency_ms is None else f"{one.latency_ms:.3g} ms",
        shown(rates.get(1), ",.0f"),
        shown(rates.get(8), ",.0f"),
        size(one.memory_bytes) if one.memory_bytes else "-",
        size(one.size_bytes) if one.size_bytes else "-",
        shown(one.deviation, ".2g"),
        shown(one.accuracy, ".2%"),
        "no" if one.why else "yes",
    )


def _how_to(ref: str, best: Tried) -> list[str]:
    """What to write down to serve it."""
    words: dict[str, Any] = {"engine": best.engine}
    if best.recipe.calibration:
        words["calibration"] = best.recipe.calibration
    lines = [f"* {best.engine} answers most in a second. In serving.toml:", "", "[recipe]"]
    lines += [f'{key} = "{value}"' for key, value in words.items()]
    lines.append("")
    if best.recipe.calibration:
        lines.append(f"modelswitch build {ref} --recipe serving.toml --data …, and then")
    lines.append(f'modelswitch promote {ref} --recipe serving.toml --reason "…"')
    return lines


def _facts(one: Tried) -> Mapping[str, Any]:
    return {
        "engine": one.engine,
        "may_serve": one.why is None,
        "why": one.why,
        "latency_ms": one.latency_ms,
        "a_second": {str(batch): rate for batch, rate in (one.a_second or {}).items()},
        "memory_bytes": one.memory_bytes,
        "size_bytes": one.size_bytes,
        "deviation": one.deviation,
        "accuracy": one.accuracy,
        "golden": one.golden,
        "calibration": one.recipe.calibration,
    }


VERBS = (engines,)
