"""The verb that looks whether everything is there and well."""

from __future__ import annotations

import rich_click as click

from modelswitch.cli.output import Result, Table
from modelswitch.cli.session import Session
from modelswitch.cli.verbs import Verb


@click.command("doctor", cls=Verb, panel="Looking")
@click.pass_obj
def doctor(session: Session) -> Result:
    """Check versions, ports, Java, database, MLflow, TorchServe, disk and sizes."""
    from modelswitch.cli.checks import check_all

    found = check_all(session)
    failed = [check for check in found if check.state == "fail"]
    data = [{"check": c.name, "state": c.state, "found": c.found, "next": c.next} for c in found]
    rows = [(c.name, c.state, c.found, c.next or "") for c in found]
    return Result(data, [Table(("check", "state", "found", "next"), rows)], exit=1 if failed else 0)


VERBS = (doctor,)
