"""The verb that asks a served model."""

from __future__ import annotations

import json
from http import HTTPStatus
from pathlib import Path

import rich_click as click

from modelswitch.cli.documents import read_inputs
from modelswitch.cli.output import Result
from modelswitch.cli.session import Session
from modelswitch.cli.verbs import Verb, complete_model
from modelswitch.errors import PredictionError, ServerError

PANEL = "Models"
TIMEOUT_S = 30.0


@click.command("predict", cls=Verb, panel=PANEL)
@click.argument("ref", shell_complete=complete_model)
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path, allow_dash=True),
    required=True,
    metavar="FILE",
    help="The request: JSON, a .npy array, a JPEG or PNG, a .csv table; - reads standard input.",
)
@click.pass_obj
def predict(session: Session, ref: str, source: Path) -> Result:
    """Ask what serves, or NAME@VERSION if that is loaded. Who answered is said on stderr."""
    from modelswitch.refs import ModelRef, parse_ref

    wanted = parse_ref(ref)
    inputs = read_inputs(source)
    switch = session.switch
    version = None if wanted == ModelRef(wanted.name) else str(wanted).partition("@")[2]
    try:
        said = switch.served.predict(
            wanted.name, inputs, version=version, timeout_s=session.timeout_s or TIMEOUT_S
        )
    except PredictionError as error:
        if error.status is None:
            raise
        raise ServerError(
            f"{ref} answered {error.status}: {error.said}",
            next=_next(wanted.name, error.status),
        ) from error
    is_text = isinstance(said.answer, str)
    text = said.answer if is_text else json.dumps(said.answer, indent=2, ensure_ascii=False)
    who = f"{said.model_version or 'unnamed'} ({said.digest or 'no digest'})"
    data = {
        "model": wanted.name,
        "answer": said.answer,
        "answered_by": said.model_version,
        "digest": said.digest,
        "status": said.status,
        "latency_ms": round(said.latency_ms, 1),
    }
    return Result(data, [text], talk=[f"{who} answered in {said.latency_ms:.1f} ms"])


def _next(model: str, status: int) -> str | None:
    if status == HTTPStatus.NOT_FOUND:
        return "modelswitch models"
    return f"modelswitch logs {model}" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else None


VERBS = (predict,)
