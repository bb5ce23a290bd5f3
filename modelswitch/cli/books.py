"""Verbs that read the books: history, diff, pins."""

from __future__ import annotations

import json

import rich_click as click

from modelswitch.cli.output import Result, Table, local_time
from modelswitch.cli.session import Session
from modelswitch.cli.verbs import Verb, Verbs, complete_model

PANEL = "Looking"


@click.command("history", cls=Verb, panel=PANEL)
@click.argument("name", required=False, shell_complete=complete_model)
@click.option("--limit", type=click.IntRange(min=1), help="The newest N rows only.")
@click.pass_obj
def history(session: Session, name: str | None, limit: int | None) -> Result:
    """Who did what, when and why: the ledger's rows, newest first."""
    from modelswitch.cli.story import story

    # Rows are told with the rows they stand on, so some more are read than are shown.
    rows = session.switch.history(name, 2 * limit + 8 if limit else None)
    by_seq = {event.seq: event for event in rows}
    rows = rows[:limit]
    table = [
        (
            str(event.seq),
            local_time(event.at),
            event.actor.name,
            story(event, by_seq.get(event.parent or 0)),
            event.reason,
        )
        for event in rows
    ]
    show: list[str | Table] = [Table(("row", "at", "by", "what", "reason"), table)]
    if not rows:
        show = ["nothing was done yet"]
    return Result([event.to_json() for event in rows], show)


@click.command("diff", cls=Verb, panel=PANEL)
@click.pass_obj
def diff(session: Session) -> Result:
    """Where pins, servers and MLflow's marks are not as the ledger says; exit 3 if anywhere."""
    found = session.switch.diff()
    data = [
        {
            "kind": d.kind,
            "model": d.model,
            "where": d.where,
            "wanted": d.wanted,
            "found": d.found,
            "fix": d.fix,
        }
        for d in found
    ]
    if not found:
        return Result(data, ["no difference: ledger, pins, servers and marks agree"])
    rows = [(d.model or "-", d.where, d.wanted, d.found, d.fix) for d in found]
    return Result(data, [Table(("model", "where", "wanted", "found", "fix"), rows)], exit=3)


@click.group("pins", cls=Verbs, panel=PANEL)
def pins() -> None:
    """What every server should hold, rendered from the ledger."""


@pins.command("show")
@click.pass_obj
def pins_show(session: Session) -> Result:
    """The pins at a glance."""
    found = session.switch.pins()
    rows = [
        (name, label, "default" if label == model.default else _role(label, model.back),
         str(slot.workers), slot.device, slot.digest)
        for name, model in sorted(found.models.items())
        for label, slot in sorted(model.slots.items())
    ]  # fmt: skip
    head = f"deployment {found.deployment}, generation {found.generation}, epoch {found.epoch}"
    table = Table(("model", "label", "as", "workers", "device", "digest"), rows)
    return Result(found.model_dump(mode="json", by_alias=True), [head, table] if rows else [head])


def _role(label: str, back: tuple[str, ...]) -> str:
    return f"way back {back.index(label) + 1}" if label in back else "candidate"


@pins.command("export")
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "configmap"]),
    default="json",
    show_default=True,
    help="The canonical text, or a ConfigMap that holds it.",
)
@click.pass_obj
def pins_export(session: Session, form: str) -> Result:
    """The canonical pins document on stdout, to be reviewed and applied elsewhere."""
    text = session.switch.pins().text
    if form == "configmap":
        # A manifest in JSON: one encoder, no YAML dialect to guess.
        manifest = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": session.settings.config_map,
                "labels": {
                    "app.kubernetes.io/part-of": "modelswitch",
                    "modelswitch.dev/deployment": session.settings.deployment,
                },
            },
            "data": {"pins.json": text},
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    return Result({"format": form, "text": text}, [text.removesuffix("\n")])


VERBS = (history, diff, pins)
