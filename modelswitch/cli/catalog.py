"""Verbs on what exists: register, models, show, build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from modelswitch.cli.output import Result, Table, counted, local_time, size, utc_time
from modelswitch.cli.session import Session
from modelswitch.cli.verbs import ALLOW_PICKLE, Verb, complete_model
from modelswitch.errors import UsageError
from modelswitch.line import label_of, version_among

if TYPE_CHECKING:
    from modelswitch.overview import ModelRow
    from modelswitch.versions import Shown

PANEL = "Models"


@click.command("register", cls=Verb, panel=PANEL)
@click.argument("uri")
@click.option("--name", required=True, help="The registered model's name.")
@click.option("--tag", "tags", multiple=True, metavar="K=V", help="A tag of the version; repeat.")
@click.option("--serving", type=click.Path(path_type=Path), help="serving.toml: recipe, about.")
@ALLOW_PICKLE
@click.pass_obj
def register(
    session: Session,
    uri: str,
    name: str,
    tags: tuple[str, ...],
    serving: Path | None,
    allow_pickle: bool,
) -> Result:
    """Register a run's model (runs:/RUN/model, models:/m-…, a folder) as a version of NAME."""
    from modelswitch.cli.documents import read_serving
    from modelswitch.cli.served_as import changed
    from modelswitch.refs import check_name

    check_name(name)
    pairs = dict(_pair(tag) for tag in tags)
    said = read_serving(serving) if serving else None
    documents = {"recipe": said.recipe if said else None, "about": said.about if said else None}
    if allow_pickle:
        documents["recipe"] = {**(documents["recipe"] or {}), "allow_pickle": True}
    if session.dry_run:
        line = f"would register {uri} as a version of {name}, unless it is one already"
        return Result({"changes": True, "model": name, "uri": uri}, [line], exit=3)
    with session.steps(name):
        version = session.switch.register(uri, name, tags=pairs, **documents)
    word = "is registered" if version.is_new else "stands registered already"
    line = f'{version} {word}. modelswitch promote {version} --to staging --reason "…"'
    data = {
        "model": version.model,
        "version": version.version,
        "is_new": version.is_new,
        "run_id": version.run_id,
        "source": version.source,
        "tags": dict(version.tags),
        "changed": sorted(version.former),
    }
    return Result(data, [line, *changed(version, serving)])


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--tag {text!r} is no KEY=VALUE", next="--tag task=classification")
    return key, value


@click.command("models", cls=Verb, panel=PANEL)
@click.pass_obj
def models(session: Session) -> Result:
    """Each model at a glance: what serves, since when, by whom, and where one can go back to."""
    found = session.switch.models()
    data = [_row_data(row) for row in found]
    if not found:
        return Result(data, ["no model is registered: modelswitch register URI --name NAME"])
    headings = ("model", "Production", "Staging", "way back", "since", "by", "healthy")
    return Result(data, [Table(headings, [_row_text(row) for row in found])])


def _row_data(row: ModelRow) -> dict[str, Any]:
    return {
        "model": row.model,
        "production": row.production.version if row.production else None,
        "digest": row.production.digest if row.production else None,
        "staging": [slot.version for slot in row.staging],
        "ways_back": [{"version": w.version, "warm": w.warm} for w in row.ways_back],
        "since": utc_time(row.since),
        "by": row.by,
        "healthy": row.healthy,
        "open": row.open,
    }


def _row_text(row: ModelRow) -> tuple[str, ...]:
    slots = [*([row.production] if row.production else ()), *row.staging]
    back = {label_of(w.version, w.digest): "warm" if w.warm else "cold" for w in row.ways_back}
    all_labels = (*(slot.label for slot in slots), *back)
    told = {label: version_among(label, *all_labels) for label in all_labels}
    ways = ", ".join(f"{told[label]} ({warm})".replace(") (", ", ") for label, warm in back.items())
    healthy = {True: "yes", False: "no", None: "-"}[row.healthy]
    return (
        row.model + (f" [open: {row.open}]" if row.open else ""),
        told[row.production.label] if row.production else "-",
        ", ".join(told[slot.label] for slot in row.staging) or "-",
        ways or "-",
        local_time(row.since) or "-",
        row.by or "-",
        healthy,
    )


@click.command("show", cls=Verb, panel=PANEL)
@click.argument("ref", shell_complete=complete_model)
@click.pass_obj
def show(session: Session, ref: str) -> Result:
    """All that is known of one version: NAME@VERSION, @STAGE, @ALIAS; NAME is what serves."""
    from modelswitch.cli.served_as import TAGS, about_line, archive_line, recipe_line
    from modelswitch.cli.story import story
    from modelswitch.refs import parse_ref

    shown = session.switch.show(parse_ref(ref))
    memory = session.switch.measured_memory(shown.ref.name)
    tracking = session.switch.addresses.tracking_uri
    links = _links(shown, tracking)
    by_seq = {event.seq: event for event in shown.rows}
    rows = [
        (
            str(e.seq),
            local_time(e.at),
            e.actor.name,
            story(e, by_seq.get(e.parent or 0)),
            e.reason,
        )
        for e in shown.rows
    ]
    lines: list[str | Table] = [f"{shown.ref}  {shown.stage}"]
    if shown.quarantined:
        entry = shown.quarantined
        what = f"{entry.ref(shown.ref.name)} is quarantined, by {entry.actor.name}"
        lines.append(f"{what} (row {entry.seq}): {entry.reason}")
    if shown.version:
        version = shown.version
        lines.append(f"run: {version.run_id or '-'}  source: {version.source}")
        lines += [f"{name}: {url}" for name, url in links.items()]
        lines += [line for line in (about_line(version), recipe_line(version)) if line]
        lines += [f"tag {k}: {v}" for k, v in sorted(version.tags.items()) if k not in TAGS]
        if version.description:
            lines.append(version.description)
    else:
        lines.append("MLflow does not tell about it now")
    for slot in shown.slots:
        document = shown.documents.get(slot.digest)
        workers = counted(slot.workers, "worker")
        place = shown.line.place(slot)
        held = f"{place}, {workers} on each server" if place else "not loaded"
        lines.append(f"archive {slot.digest} ({slot.label}): {held}")
        lines.append(f"  {archive_line(document, slot, memory.get(slot.label))}")
    if rows:
        lines.append(Table(("row", "at", "by", "what", "reason"), rows))
    return Result(_shown_data(shown, links, memory), lines)


def _links(shown: Shown, tracking: str) -> dict[str, str]:
    if shown.version is None:
        return {}
    base = f"{tracking.rstrip('/')}/#"
    found = {"MLflow": f"{base}/models/{shown.ref.name}/versions/{shown.version.version}"}
    if shown.version.run_id:
        found["metrics"] = f"{base}/runs/{shown.version.run_id}"
    return found


def _shown_data(shown: Shown, links: dict[str, str], memory: Mapping[str, int]) -> dict[str, Any]:
    from modelswitch.cli.served_as import documents

    version, entry = shown.version, shown.quarantined
    archives = []
    for slot in shown.slots:
        document = shown.documents.get(slot.digest)
        archives.append(
            {
                "digest": slot.digest,
                "label": slot.label,
                "place": shown.line.place(slot),
                "workers": slot.workers,
                "worker_memory_bytes": memory.get(slot.label),
                "golden": document.golden.kind if document and document.golden else None,
                "recipe": document.recipe.model_dump(mode="json") if document else None,
                "runs_code": document.runs_code if document else None,
            }
        )
    return {
        "model": shown.ref.name,
        "version": shown.ref.version,
        "stage": str(shown.stage),
        "archives": archives,
        **documents(version),
        "run_id": version.run_id if version else None,
        "source": version.source if version else None,
        "tags": dict(version.tags) if version else {},
        "aliases": list(version.aliases) if version else [],
        "links": links,
        "quarantined": (
            {"by": entry.actor.name, "reason": entry.reason, "event": entry.seq} if entry else None
        ),
        "rows": [event.to_json() for event in shown.rows],
    }


@click.command("build", cls=Verb, panel=PANEL)
@click.argument("ref", shell_complete=complete_model)
@click.option("--check", is_flag=True, help="Build again and compare the bytes: exit 3.")
@click.option("--no-golden", is_flag=True, help="Without a golden request.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Another recipe: TOML, JSON.")
@click.option("--data", type=click.Path(path_type=Path), help="What int8 is calibrated with.")
@ALLOW_PICKLE
@click.pass_obj
def build(
    session: Session,
    ref: str,
    check: bool,
    no_golden: bool,
    recipe: Path | None,
    data: Path | None,
    allow_pickle: bool,
) -> Result:
    """Build a version's archive; it is built once, and reused."""
    from modelswitch.cli.documents import read_recipe
    from modelswitch.refs import parse_ref

    wanted = parse_ref(ref)
    document = read_recipe(recipe) if recipe else None
    if check:
        if document or no_golden or allow_pickle:
            raise UsageError("--check builds what was built before: with --data alone")
        with session.steps(ref):
            differs = session.switch.check_build(wanted, data)
        lines = differs or [f"{ref} builds to the same bytes again"]
        return Result({"differs": differs}, lines, exit=3 if differs else 0)
    if allow_pickle:
        document = session.switch.allowing_pickle(wanted, document)
    if session.dry_run:
        digest = session.switch.dry_run.build(wanted, golden=not no_golden, recipe=document)
        line = f"{ref} is built: {digest}" if digest else f"would build {ref}"
        return Result(
            {"changes": digest is None, "digest": digest}, [line], exit=0 if digest else 3
        )
    with session.steps(ref):
        built = session.switch.build(wanted, golden=not no_golden, recipe=document, data=data)
    golden = built.document.golden.kind if built.document.golden else None
    name = f"{wanted.name}@{built.slot.version}"
    facts = {
        "model": wanted.name,
        "version": built.slot.version,
        "digest": built.slot.digest,
        "label": built.slot.label,
        "size_bytes": built.size_bytes,
        "golden": golden,
        "calibration": built.document.recipe.calibration,
        "reused": built.reused,
    }
    how = "was built before" if built.reused else "is built"
    line = f"{name} {how}: {built.slot.digest} ({size(built.size_bytes)}, golden: {golden})"
    lines = [line]
    if data is not None:
        lines.append(f'of this data the recipe says: calibration = "{facts["calibration"]}"')
    return Result(facts, lines)


VERBS = (register, models, show, build)
