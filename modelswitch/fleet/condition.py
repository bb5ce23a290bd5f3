"""An agent's report as a condition of its pod: short enough for every list of pods.

A condition holds what differs from the pins it names, and the newest proofs. Who reads it holds
the pins: what is not told is as they say. The whole report is at the agent's /report.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modelswitch.pins import PinnedModel, Pins
from modelswitch.reports import ModelReport, Proof, Report, SlotReport, State, told_at

CONDITION = "modelswitch.dev/pins-applied"
DEPLOYMENT_LABEL = "modelswitch.dev/deployment"
POOL_LABEL = "modelswitch.dev/pool"
PINS_KEY = "pins.json"  # in the ConfigMap, and the name of the mounted file

# Escaped or plain: a terminal would obey them. Line ends and tabs are a traceback's.
_CONTROLS = re.compile(r"\\u00(?:0[0-8bcef]|1[0-9a-f]|7f|[89][0-9a-f])|[\x7f-\x9f]", re.IGNORECASE)
_NEWEST = 4  # proofs told in full
_DATED = 30  # more of which the time is told
_ERROR_CHARS = 500
_MAX_BYTES = 16_000
_UNTOLD = {"heartbeat_at", "env", "capacity", "foreign", "models", "server", "pool"}


def render(report: Report, pins: Pins | None, changed_at: datetime | None = None) -> dict[str, Any]:
    """The condition of `report`, whose agent follows `pins`; `changed_at` of its status.

    The message is JSON of at most 16 kB: of many broken models the first are told.
    """
    wanted = pins.of_pool(report.pool) if pins else {}
    proven = sorted(
        (name for name, model in report.models.items() if model.proof),
        key=lambda name: _proof_at(report.models[name]),
    )
    newest = proven[-_NEWEST:]
    told = {
        name: _without_leftovers(model, wanted.get(name))
        for name, model in report.models.items()
        if name in newest or not _is_as_pinned(model, wanted.get(name))
    }
    dated = [name for name in proven if name not in told][-_DATED:]
    since = {name: int(_proof_at(report.models[name])) for name in dated}
    text = _message(report, told, since)
    while len(text.encode()) > _MAX_BYTES and told:
        # The proofs are dropped first, then what is broken beyond what anybody reads.
        told.pop(next((n for n in told if n in newest), next(reversed(told))))
        text = _message(report, told, since, cut=True)
    at = (changed_at or report.at).astimezone(UTC)
    return {
        "type": CONDITION,
        "status": "True" if report.healthy else "False",
        "reason": _reason(report, pins),
        "message": text,
        "lastProbeTime": _rfc3339(report.heartbeat_at),
        "lastTransitionTime": _rfc3339(at),
    }


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the published pins ask of one pool, worked out once for all of its conditions."""

    sha256: str
    models: Mapping[str, PinnedModel]

    @classmethod
    def of(cls, pins: Pins, pool: str) -> Wanted:
        return cls(pins.sha256, pins.of_pool(pool))


def parse(
    condition: Mapping[str, Any], *, server: str, pool: str, wanted: Wanted | None
) -> Report | None:
    """The report in a condition; None where it cannot be read.

    `wanted`: of that pool. Where the agent follows other pins, only what it tells is known.
    """
    from pydantic_core import from_json

    try:
        # What a pod says is not ours: neither its depth nor lone surrogates may end a command.
        text = _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", condition.get("message") or "")
        data = from_json(text, allow_inf_nan=False)
        heartbeat = condition.get("lastProbeTime") or data["at"]
        cut = data.pop("cut", False)
        since = {
            n: told_at(datetime.fromtimestamp(s, UTC)) for n, s in data.pop("since", {}).items()
        }
        report = Report.model_validate(
            {**data, "server": server, "pool": pool, "heartbeat_at": heartbeat}
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, OSError):
        return None
    if wanted is None or cut or report.pins_sha256 != wanted.sha256:
        return report
    models = {
        name: report.models.get(name) or _as_pinned(model, since.get(name, report.at))
        for name, model in wanted.models.items()
    }
    return report.model_copy(update={"models": {**report.models, **models}})


def _message(
    report: Report,
    told: Mapping[str, ModelReport],
    since: Mapping[str, int],
    *,
    cut: bool = False,
) -> str:
    data = report.model_dump(mode="json", by_alias=True, exclude=_UNTOLD, exclude_none=True)
    if report.error:
        data["error"] = report.error[:_ERROR_CHARS]
    if report.env.packages_sha256:
        data["env"] = {
            "python": report.env.python,
            "packages_sha256": report.env.packages_sha256,
        }
    data["capacity"] = report.capacity.model_dump()
    data["models"] = {
        name: model.model_dump(mode="json", exclude_none=True) for name, model in told.items()
    }
    if since:
        data["since"] = since
    if cut:
        data["cut"] = True
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)


def _reason(report: Report, pins: Pins | None) -> str:
    if report.healthy:
        behind = pins is not None and report.generation != pins.generation
        return "Behind" if behind else "Applied"
    return "NotApplied"


def _without_leftovers(model: ModelReport, wanted: PinnedModel | None) -> ModelReport:
    """What is pinned of it, with errors cut: what is being unloaded is nobody's news."""
    slots = {
        # Memory is for the whole report: here it would be news every other minute.
        label: slot.model_copy(
            update={"error": slot.error and slot.error[-_ERROR_CHARS:], "memory_bytes": None}
        )
        for label, slot in model.slots.items()
        if wanted is None or label in wanted.slots
    }
    error = model.error and model.error[:_ERROR_CHARS]
    return model.model_copy(update={"slots": slots, "error": error})


def _is_as_pinned(model: ModelReport, wanted: PinnedModel | None) -> bool:
    """Whether a reader who has the pins knows all of it."""
    if wanted is None or model.error or model.default != wanted.default:
        return False
    if wanted.default is not None:
        proof = model.proof
        if proof is None or proof.digest != wanted.slots[wanted.default].digest:
            return False
    return all(
        model.slot(label).state is State.PROVEN and model.slot(label).workers == slot.workers
        for label, slot in wanted.slots.items()
    )


def _as_pinned(wanted: PinnedModel, at: datetime) -> ModelReport:
    digest = wanted.slots[wanted.default].digest if wanted.default else None
    return ModelReport(
        default=wanted.default,
        proof=Proof(digest=digest, at=at) if digest else None,
        slots={
            label: SlotReport(state=State.PROVEN, workers=slot.workers)
            for label, slot in wanted.slots.items()
        },
    )


def _proof_at(model: ModelReport) -> float:
    return model.proof.at.timestamp() if model.proof else 0.0


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
