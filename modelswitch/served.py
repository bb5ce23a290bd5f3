"""What is served, asked from the caller's side: where a version answers, one answer, many."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from modelswitch import reports
from modelswitch.effects import correlation_id
from modelswitch.errors import ModelSwitchError, NotFound, Overloaded, Temporary, UsageError
from modelswitch.line import Slot, Stage
from modelswitch.refs import ModelRef, parse_ref
from modelswitch.rooms import Rooms
from modelswitch.versions import Versions

if TYPE_CHECKING:
    from modelswitch.bench import Plan, Report
    from modelswitch.client import Client, Prediction


def _connect(url: str) -> Client:
    from modelswitch.client import Client

    return Client(url)


class Served:
    """`connect` gives a client for an inference address."""

    def __init__(
        self, rooms: Rooms, versions: Versions, *, connect: Callable[[str], Client] = _connect
    ) -> None:
        self.rooms = rooms
        self.versions = versions
        self._connect = connect

    def url(self, server: str | None = None) -> str:
        """Where predictions are asked: as the settings say, else a live server's address.

        `server`: that one's; raises NotFound for one that does not report its address.
        """
        named = self.rooms.settings.fleet.inference_url
        if named is not None and server is None:
            return named
        now = datetime.now(UTC)
        live = [r for r in self.rooms.fleet.reports() if not r.is_silent(now) and r.inference_url]
        told = [str(r.inference_url) for r in live if server in (None, r.server)]
        if told:
            return told[0]
        if server is not None:
            raise NotFound(
                f"no live server {server} reports where it answers", next="modelswitch status"
            )
        return self.rooms.addresses.servers[0].inference_url

    def predict(
        self, model: str, inputs: Any, *, version: str | None = None, timeout_s: float = 30.0
    ) -> Prediction:
        """Ask the default path, or what is loaded as `3`, `3:ab12cd34`, `staging`, by its label.

        `inputs`: see `modelswitch.Client.predict`, as for what it raises; besides, UsageError
        where a version is loaded with several recipes, NotFound where nothing is loaded that
        could answer.
        """
        label = None
        if version is not None:
            label = self.versions.asked(parse_ref(f"{model}@{version}")).label
        try:
            with self._connect(self.url()) as client:
                return client.predict(
                    model,
                    inputs,
                    version=label,
                    timeout_s=timeout_s,
                    correlation_id=correlation_id(),
                )
        except Overloaded:
            if version is None:
                with suppress(Temporary):  # TorchServe doesn't say it: is anything to answer?
                    self.versions.resolve(ModelRef(model, stage=Stage.PRODUCTION))
            raise

    def bench(
        self,
        ref: ModelRef,
        plan: Plan,
        *,
        inputs: Any = None,
        body_from: str = "a call",
        sla_ms: float | None = None,
        server: str | None = None,
        metrics_url: str | None = None,
    ) -> Report:
        """Measure a loaded version on one server, asked by its label; nothing is changed.

        `inputs`: see `modelswitch.Client.predict`; else the archive's golden request. `sla_ms`:
        else what `register` was told. `metrics_url`: TorchServe's, where it is not the local
        stack's. Raises NotFound and Refused for what is not loaded, PredictionError for what is
        not answered.
        """
        from modelswitch.bench import Subject, sweep
        from modelswitch.client.bodies import body_of

        slot = self._slot(ref)
        document = self.versions.document(slot.digest)
        if inputs is None:
            if document is None or document.golden is None:
                raise UsageError(
                    f"{ref.name}@{slot.version} has no golden request to ask",
                    next="--input FILE: a request of yours",
                )
            inputs, body_from = document.golden.request, "golden request"
        recipe = document.recipe if document else None
        url = self.url(server)
        report = self._report_of(url)
        subject = Subject(
            model=ref.name,
            version=slot.version,
            label=slot.label,
            digest=slot.digest,
            url=url,
            workers=slot.workers,
            body_from=body_from,
            metrics_url=metrics_url or self._metrics_url(url),
            batch_size=recipe.batch_size if recipe else None,
            max_batch_delay_ms=recipe.max_batch_delay_ms if recipe else None,
            threads=recipe.threads if recipe else None,
            cores=report.capacity.cores or None if report else None,
            sla_ms=sla_ms if sla_ms is not None else self._sla_ms(ref.name, slot.version),
        )
        return sweep(subject, body_of(inputs), plan)

    def _slot(self, ref: ModelRef) -> Slot:
        """What is loaded under a reference; for a bare name, what is in production."""
        slot = self.versions.loaded(ref)
        if slot is None:
            event = self.rooms.ledger.head(ref.name)
            slot = event.head.standing.default if event else None
        if slot is None:
            raise NotFound(
                f"{ref.name} has no version in production",
                next=f"a candidate is measured by its number: modelswitch bench {ref.name}@1",
            )
        return slot

    def _report_of(self, url: str) -> reports.Report | None:
        found = (r for r in self.rooms.fleet.reports() if r.inference_url == url)
        return next(found, None)

    def _metrics_url(self, url: str) -> str | None:
        """TorchServe's, where the server is one of the local stack's."""
        found = (s.metrics_url for s in self.rooms.addresses.servers if s.inference_url == url)
        return next(found, None)

    def _sla_ms(self, model: str, version: str) -> float | None:
        """What was said of the version at `register`; None if nothing, or nobody to ask."""
        try:
            found = self.rooms.registry.get_version(model, version).about.get("latency_sla_ms")
        except ModelSwitchError:
            return None
        return float(found) if isinstance(found, int | float) and found > 0 else None
