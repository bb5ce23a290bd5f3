"""Whether pins, every server, and history tell one story; and a witness of every default."""

from __future__ import annotations

from datetime import UTC, datetime

from modelswitch import overview
from modelswitch import pins as pinning
from modelswitch.agent.plan import PLACEHOLDER
from modelswitch.ledger import Ledger, quarantine
from modelswitch.servers.twin import TwinServer
from tests.site import Site, wait_for


def assert_one_story(site: Site, model: str) -> None:
    """Nothing is open, the pins are the ledger's, every server follows, the chain holds."""
    ledger = site.ledger
    snapshot = ledger.snapshot()
    assert not [m for m, event in snapshot.heads.items() if event.head.is_open]
    wanted = pinning.render(
        {name: event.head for name, event in snapshot.heads.items()},
        deployment=site.settings.deployment,
        generation=snapshot.generation,
        epoch=snapshot.epoch,
    )
    published = site.fleet.published()
    assert published is not None
    assert published.pins.text == wanted.text

    def differences() -> list[overview.Difference]:
        now = datetime.now(UTC)
        reports = site.fleet.reports()
        return overview.differences(wanted, published.pins, reports, snapshot.heads, now)

    wait_for(lambda: not differences())
    default = snapshot.heads[model].head.default if model in snapshot.heads else None
    assert site.all_answer(model) == {default.version if default else None}
    assert ledger.verify() == len(ledger.history())
    barred = {entry.slot.digest for entry in quarantine(ledger.history(model))}
    assert default is None or default.digest not in barred


class Witness(TwinServer):
    """A twin that sees what becomes a default, and holds it against the ledger at that moment."""

    ledger: Ledger
    wrong: list[str]

    async def set_default(self, model: str, label: str) -> None:
        if label != PLACEHOLDER and label not in _committed(self.ledger, model):
            self.wrong.append(f"{model} {label} became the default before any row said so")
        await super().set_default(model, label)

    async def workers(self, model: str, label: str, count: int) -> None:
        served = self._models.get(model)
        if served and served.default == label and label not in _committed(self.ledger, model):
            self.wrong.append(f"{model} {label} got workers while it was the default by accident")
        await super().workers(model, label, count)


def _committed(ledger: Ledger, model: str) -> set[str]:
    """Labels that a settled or committed row of the model made the default."""
    rows = [event for event in ledger.history(model) if not event.is_note]
    return {event.head.default.label for event in rows if event.head.default is not None}


def with_witnesses(site: Site) -> list[str]:
    """Let witnesses stand in for the site's twins, before it starts; what they see goes wrong."""
    wrong: list[str] = []
    for name, twin in site.twins.items():
        witness = Witness(twin.model_store)
        witness.ledger, witness.wrong = site.ledger, wrong
        site.twins[name] = witness
    return wrong
