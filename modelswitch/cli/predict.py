"""The verb that asks a served model."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import rich_click as click

from modelswitch.cli.documents import read_json
from modelswitch.cli.output import Result
from modelswitch.cli.session import Session
from modelswitch.cli.verbs import Verb, complete_model
from modelswitch.errors import ServerError, Temporary

PANEL = "Models"
_TIMEOUT_S = 30.0


@click.command("predict", cls=Verb, panel=PANEL)
@click.argument("ref", shell_complete=complete_model)
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path, allow_dash=True),
    required=True,
    metavar="FILE",
    help="The request's JSON; - reads standard input.",
)
@click.pass_obj
def predict(session: Session, ref: str, source: Path) -> Result:
    """Ask what serves, or NAME@VERSION if that is loaded. Who answered is said on stderr."""
    from modelswitch.line import Stage
    from modelswitch.refs import ModelRef, parse_ref

    wanted = parse_ref(ref)
    body = read_json(source)
    switch = session.switch
    version = None if wanted == ModelRef(wanted.name) else switch.resolve(wanted)
    answer = switch.predict(
        wanted.name, body, version=version, timeout_s=session.timeout_s or _TIMEOUT_S
    )
    if answer.status == 503 and version is None:
        with suppress(Temporary):  # the placeholder's words say nothing: is anything to answer?
            switch.resolve(ModelRef(wanted.name, stage=Stage.PRODUCTION))
    if answer.status >= 400:
        raise ServerError(
            f"{ref} answered {answer.status}: {_message(answer.body)}",
            next=f"modelswitch logs {wanted.name}" if answer.status >= 500 else None,
        )
    try:
        said = answer.json()
        text = json.dumps(said, indent=2, ensure_ascii=False)
    except ValueError:
        said = text = answer.body.decode("utf-8", errors="replace")
    who = f"{answer.model_version or 'unnamed'} ({answer.digest or 'no digest'})"
    data = {
        "model": wanted.name,
        "answer": said,
        "answered_by": answer.model_version,
        "digest": answer.digest,
        "status": answer.status,
        "latency_ms": round(answer.latency_ms, 1),
    }
    return Result(data, [text], talk=[f"{who} answered in {answer.latency_ms:.1f} ms"])


def _message(body: bytes) -> str:
    """The server's own words."""
    text = body.decode("utf-8", errors="replace").strip()
    try:
        found = json.loads(text)
    except ValueError:
        return text[:2000] or "nothing"
    if isinstance(found, dict):
        for key in ("message", "error", "detail"):
            if isinstance(found.get(key), str):
                return str(found[key])
    return text[:2000]


VERBS = (predict,)
